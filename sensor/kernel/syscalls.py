"""How the tracepoint attachment reads each system call (x86-64, and i386 in compatibility mode).

Numbers: arch/x86/entry/syscalls/syscall_{64,32}.tbl, a stable interface. A call that changes the
file system and is not in here is not seen by that attachment; docs/limits.md lists them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sensor.events import Operation
from sensor.kernel.layout import header

COMPAT_FIRST = 512
_NONE = 255


class Shape(enum.IntEnum):
    """What a call's arguments mean (``enum rote_syscall_shape``)."""

    OPEN = 1
    FD = 2
    NAME = 3
    NAMES = 4
    MAP = 5
    BIND = 6


@dataclass(frozen=True, slots=True)
class Call:
    """One system call; arguments are counted from 0."""

    name: str
    shape: Shape
    operation: Operation
    native: int | None
    compat: int | None
    fd: int = _NONE
    name_arg: int = _NONE
    fd2: int = _NONE
    name2: int = _NONE
    flags: int = _NONE


CALLS = (
    Call("open", Shape.OPEN, Operation.OPEN_WRITE, native=2, compat=5, name_arg=0, flags=1),
    Call("creat", Shape.OPEN, Operation.CREATE, native=85, compat=8, name_arg=0),
    Call(
        "openat",
        Shape.OPEN,
        Operation.OPEN_WRITE,
        native=257,
        compat=295,
        fd=0,
        name_arg=1,
        flags=2,
    ),
    Call("openat2", Shape.OPEN, Operation.OPEN_WRITE, native=437, compat=437, fd=0, name_arg=1),
    Call("open_by_handle_at", Shape.OPEN, Operation.OPEN_WRITE, native=304, compat=342, flags=2),
    Call("write", Shape.FD, Operation.WRITE, native=1, compat=4, fd=0),
    Call("pwrite64", Shape.FD, Operation.WRITE, native=18, compat=181, fd=0),
    Call("writev", Shape.FD, Operation.WRITE, native=20, compat=146, fd=0),
    Call("pwritev", Shape.FD, Operation.WRITE, native=296, compat=334, fd=0),
    Call("pwritev2", Shape.FD, Operation.WRITE, native=328, compat=379, fd=0),
    Call("sendfile", Shape.FD, Operation.WRITE, native=40, compat=187, fd=0),
    Call("sendfile64", Shape.FD, Operation.WRITE, native=None, compat=239, fd=0),
    Call("splice", Shape.FD, Operation.WRITE, native=275, compat=313, fd=2),
    Call("tee", Shape.FD, Operation.WRITE, native=276, compat=315, fd=1),
    Call("vmsplice", Shape.FD, Operation.WRITE, native=278, compat=316, fd=0),
    Call("copy_file_range", Shape.FD, Operation.WRITE, native=326, compat=377, fd=2),
    Call("fallocate", Shape.FD, Operation.WRITE, native=285, compat=324, fd=0),
    Call("ftruncate", Shape.FD, Operation.TRUNCATE, native=77, compat=93, fd=0),
    Call("ftruncate64", Shape.FD, Operation.TRUNCATE, native=None, compat=194, fd=0),
    Call("truncate", Shape.NAME, Operation.TRUNCATE, native=76, compat=92, name_arg=0),
    Call("truncate64", Shape.NAME, Operation.TRUNCATE, native=None, compat=193, name_arg=0),
    Call("mmap", Shape.MAP, Operation.MAP_WRITE, native=9, compat=None, fd=4, name_arg=2, flags=3),
    Call(
        "mmap2", Shape.MAP, Operation.MAP_WRITE, native=None, compat=192, fd=4, name_arg=2, flags=3
    ),
    Call("unlink", Shape.NAME, Operation.UNLINK, native=87, compat=10, name_arg=0),
    Call("unlinkat", Shape.NAME, Operation.UNLINK, native=263, compat=301, fd=0, name_arg=1),
    Call("rmdir", Shape.NAME, Operation.RMDIR, native=84, compat=40, name_arg=0),
    Call("rename", Shape.NAMES, Operation.RENAME, native=82, compat=38, name_arg=0, name2=1),
    Call(
        "renameat",
        Shape.NAMES,
        Operation.RENAME,
        native=264,
        compat=302,
        fd=0,
        name_arg=1,
        fd2=2,
        name2=3,
    ),
    Call(
        "renameat2",
        Shape.NAMES,
        Operation.RENAME,
        native=316,
        compat=353,
        fd=0,
        name_arg=1,
        fd2=2,
        name2=3,
    ),
    Call("link", Shape.NAMES, Operation.LINK, native=86, compat=9, name_arg=0, name2=1),
    Call(
        "linkat",
        Shape.NAMES,
        Operation.LINK,
        native=265,
        compat=303,
        fd=0,
        name_arg=1,
        fd2=2,
        name2=3,
    ),
    Call("symlink", Shape.NAME, Operation.SYMLINK, native=88, compat=83, name_arg=1),
    Call("symlinkat", Shape.NAME, Operation.SYMLINK, native=266, compat=304, fd=1, name_arg=2),
    Call("mkdir", Shape.NAME, Operation.MKDIR, native=83, compat=39, name_arg=0),
    Call("mkdirat", Shape.NAME, Operation.MKDIR, native=258, compat=296, fd=0, name_arg=1),
    Call("mknod", Shape.NAME, Operation.MKNOD, native=133, compat=14, name_arg=0),
    Call("mknodat", Shape.NAME, Operation.MKNOD, native=259, compat=297, fd=0, name_arg=1),
    Call("bind", Shape.BIND, Operation.MKNOD, native=49, compat=361, name_arg=1),
    Call("chmod", Shape.NAME, Operation.CHMOD, native=90, compat=15, name_arg=0),
    Call("fchmodat", Shape.NAME, Operation.CHMOD, native=268, compat=306, fd=0, name_arg=1),
    Call("fchmodat2", Shape.NAME, Operation.CHMOD, native=452, compat=452, fd=0, name_arg=1),
    Call("fchmod", Shape.FD, Operation.CHMOD, native=91, compat=94, fd=0),
    Call("chown", Shape.NAME, Operation.CHOWN, native=92, compat=182, name_arg=0),
    Call("lchown", Shape.NAME, Operation.CHOWN, native=94, compat=16, name_arg=0),
    Call("fchown", Shape.FD, Operation.CHOWN, native=93, compat=95, fd=0),
    Call("fchownat", Shape.NAME, Operation.CHOWN, native=260, compat=298, fd=0, name_arg=1),
    Call("chown32", Shape.NAME, Operation.CHOWN, native=None, compat=212, name_arg=0),
    Call("lchown32", Shape.NAME, Operation.CHOWN, native=None, compat=198, name_arg=0),
    Call("fchown32", Shape.FD, Operation.CHOWN, native=None, compat=207, fd=0),
    Call("setxattr", Shape.NAME, Operation.SETXATTR, native=188, compat=226, name_arg=0),
    Call("lsetxattr", Shape.NAME, Operation.SETXATTR, native=189, compat=227, name_arg=0),
    Call("fsetxattr", Shape.FD, Operation.SETXATTR, native=190, compat=228, fd=0),
    Call("removexattr", Shape.NAME, Operation.REMOVEXATTR, native=197, compat=235, name_arg=0),
    Call("lremovexattr", Shape.NAME, Operation.REMOVEXATTR, native=198, compat=236, name_arg=0),
    Call("fremovexattr", Shape.FD, Operation.REMOVEXATTR, native=199, compat=237, fd=0),
    Call("mount", Shape.NAME, Operation.MOUNT, native=165, compat=21, name_arg=1),
    Call("move_mount", Shape.NAME, Operation.MOUNT, native=429, compat=429, fd=2, name_arg=3),
    Call("umount2", Shape.NAME, Operation.UNMOUNT, native=166, compat=52, name_arg=0),
    Call("umount", Shape.NAME, Operation.UNMOUNT, native=None, compat=22, name_arg=0),
    Call("pivot_root", Shape.NAME, Operation.PIVOT_ROOT, native=155, compat=217, name_arg=0),
)


def syscall_table() -> dict[int, bytes]:
    """Entries of the ``syscalls`` map by index."""
    layout = header().structs["syscall_entry"]
    table: dict[int, bytes] = {}
    for call in CALLS:
        entry = layout.pack(
            shape=call.shape,
            operation=call.operation,
            fd_arg=call.fd,
            name_arg=call.name_arg,
            fd2_arg=call.fd2,
            name2_arg=call.name2,
            flags_arg=call.flags,
        )
        if call.native is not None:
            table[call.native] = entry
        if call.compat is not None:
            table[COMPAT_FIRST + call.compat] = entry
    return table
