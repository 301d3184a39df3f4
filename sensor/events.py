"""What the kernel tells us, decoded: the types every step after the ring shares.

The numbers here are those of ``bpf/events.h``; ``tests/unit/test_layout.py`` and the
loader both refuse to go on when the two differ.

Paths are ``str`` decoded with ``surrogateescape`` (``os.fsdecode``), so that every byte
sequence the kernel accepts survives a round trip. They are relative to the container's
root. Escape them before showing them to a person (``sensor.audits.formats``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class EventKind(enum.IntEnum):
    """What a record is about (``enum event_kind``)."""

    EXEC = 1
    FILE = 2
    CGROUP_CREATED = 3
    CGROUP_REMOVED = 4


class Operation(enum.IntEnum):
    """What was done (``enum operation``)."""

    EXEC = 1
    SCRIPT = 2  # a file named by execve whose interpreter was run in its place
    MAP_EXEC = 3
    OPEN_WRITE = 10
    CREATE = 11
    TRUNCATE = 12
    WRITE = 13  # through a descriptor that was not opened under our eyes
    MAP_WRITE = 14
    UNLINK = 20
    RMDIR = 21
    RENAME = 30
    LINK = 40
    SYMLINK = 41
    MKDIR = 50
    MKNOD = 51
    CHMOD = 60
    CHOWN = 61
    SETXATTR = 62
    REMOVEXATTR = 63
    MOUNT = 70
    UNMOUNT = 71
    PIVOT_ROOT = 72
    TRACE = 80  # ptrace, process_vm_writev, /proc/PID/mem: the path is the traced program
    LOAD_CODE = 81  # a kernel module, a kernel to boot
    RECEIVE = 82  # a writable descriptor came in over a socket or by pidfd_getfd


class OperationClass(enum.IntFlag):
    """The kinds of change that write keys tell apart (``enum operation_class``), one bit each."""

    WRITE = 1  # open for write, create, truncate, write, shared writable mapping
    REMOVE = 2  # unlink, rmdir, the old name of a rename
    RENAME = 4  # the new name of a rename
    LINK = 8  # link: both names; symlink: the new name
    MKDIR = 16
    MKNOD = 32
    ATTRIBUTES = 64  # chmod, chown, extended attributes
    MOUNT = 128
    TRACE = 256
    LOAD_CODE = 512


class Detection(enum.IntEnum):
    """What kind of deviation a novelty is (``enum detection``); a rule has an action for each."""

    NONE = 0
    UNKNOWN_PROGRAM = 1
    UNKNOWN_PARENT = 2  # a known program, executed by one that never did
    CHANGED_PROGRAM = 3  # written or changed at run time
    MEMORY_PROGRAM = 4  # without a file
    SETUID_PROGRAM = 5  # unknown, and it raises privileges
    DENIED_PROGRAM = 6  # a rule names it
    EXEC_SESSION = 7  # somebody comes in from outside
    UNKNOWN_WRITE = 8
    PROTECTED_WRITE = 9  # unknown, and of a place that decides what runs or who may enter
    DENIED_PATH = 10  # a rule names it
    STARTUP_PROGRAM = 11  # known, but only while the service starts up
    UNKNOWN_ARGUMENTS = 12  # a known interpreter, told to do something that it never was


class Origin(enum.IntEnum):
    """Where an object's content comes from (``enum origin``)."""

    UNKNOWN = 0  # the container's root is no overlay, so layers cannot be told apart
    IMAGE = 1  # a lower layer: as the image shipped it
    ADDED = 2  # the upper layer: written or changed at run time
    MOUNT = 3  # a volume or bind mount
    TMPFS = 4
    MEMORY = 5  # memfd, deleted: has no path


class Actor(enum.IntEnum):
    """Who acts (``enum actor``)."""

    SERVICE = 1  # a descendant of the container's first process
    SESSION = 2  # came in from outside: docker exec, kubectl exec, nsenter
    PROBE = 3  # the image's health check


class WalkEnd(enum.IntEnum):
    """Where the walk from an object up to its root ended (``enum walk_end``).

    Only ROOT can ever be known to a model.
    """

    NONE = 0  # no walk was made: the event names no object
    ROOT = 1  # the container's root mount
    OTHER_NAMESPACE = 2  # the root of another, or an anonymous, mount namespace
    DETACHED = 3  # a mount that is attached nowhere
    INTERNAL = 4  # a kernel-private mount (overlay's backing files)
    PSEUDO = 5  # its own parent: pipe, socket, memfd
    TOO_DEEP = 6  # more components than the kernel side walks
    BY_NAME = 7  # not walked: base directory plus the name the caller gave (tracepoints)


class EventFlag(enum.IntFlag):
    """Remarks on one event (``enum event_flag``)."""

    PATH_TRUNCATED = 1
    PATH2_TRUNCATED = 2
    ARGV_TRUNCATED = 4
    PROGRAM_TRUNCATED = 8
    DELETED = 16  # the object has no name left
    SETUID = 32  # the program raises privileges
    TTY = 64  # the process has a controlling terminal
    DIRECTORY = 128
    PENDING = 256  # the container had no model when the kernel looked
    KILLED = 512  # the acting process got SIGKILL
    BEFORE = 1024  # EXEC: refused or reported before it was complete; nothing runs yet
    ON_ERROR = 2048  # refused although the model knows it: it could not be judged
    LEFTOVER = 4096  # not an act: what was open before prevention began (user space)
    MAPPED = 8192  # with LEFTOVER: a mapping, which cannot be refused any more (user space)
    REPORTED = 16384  # EXEC: known; told because a rule looks at its arguments
    STARTUP = 32768  # EXEC: while the container's service was starting up
    SHIPPED = 65536  # FILE: one of the objects came with the image; asked where it matters


@dataclass(slots=True)
class Event:
    """One record the kernel sent.

    ``program`` is the program that acts: for EXEC the one that called execve, for FILE the
    one that changes the file. ``path`` is the object: for EXEC the program that now runs.
    """

    kind: EventKind
    time_ns: int  # wall clock, nanoseconds since the epoch
    cgroup_id: int  # of the container's own cgroup, also when the task sits below it
    operation: Operation
    path: str = ""
    path2: str = ""  # RENAME: the new name; LINK: the new name (path is the old one)
    pid: int = 0  # as user space says it: the kernel's tgid
    tid: int = 0
    parent_pid: int = 0
    uid: int = 0
    gid: int = 0
    program: str = ""
    applet: str = ""  # FILE: of the acting multi-call program; EXEC: of the one that now runs
    program_applet: str = ""  # EXEC: of the multi-call program that called execve
    parent_program: str = ""
    actor: Actor = Actor.SERVICE
    origin: Origin = Origin.UNKNOWN  # of path
    walk_end: WalkEnd = WalkEnd.NONE  # of path
    walk_end2: WalkEnd = WalkEnd.NONE  # of path2
    cwd: str = ""
    argv: tuple[str, ...] = ()
    flags: EventFlag = EventFlag(0)
    open_flags: int = 0  # O_* of an open, MAP_*/PROT_* of a mapping, mode of a chmod or mknod
    model: int = 0  # the kernel's number of the model it judged by; 0: none yet
    action: str = "none"  # what the kernel did: "none", "denied" or "killed"
    errno: int = 0  # what the process saw, when denied
    base: tuple[int, int] = (0, 0)  # BY_NAME: device and inode of the directory name is in
    base2: tuple[int, int] = (0, 0)
    name: str = ""  # BY_NAME: as the caller gave it
    name2: str = ""
    exec_id: int = 0  # names the execution the acting process runs; EXEC: the new one
    caller_exec_id: int = 0  # EXEC: the caller's
    program_node: int = 0  # the kernel's number of ``program``; 0: it did not know it
    detection: Detection = Detection.NONE  # as the kernel saw it
    repeat: int = 1  # how many identical records this one stands for
