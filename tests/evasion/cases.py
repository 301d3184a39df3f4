"""The table: what an attacker tries, and what a service may go on doing.

Each attack is a row: a technique of evade.c with its arguments, what is planted for it, and which
paths show whether it had an effect. Letters and numbers in ``source`` are those of the list of
techniques that the suite is built on (E: executions, W: writes).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PLACES = {
    "image": "/img",  # a lower layer
    "added": "/added",  # the upper layer
    "volume": "/vol",
    "tmpfs": "/tmp",
    "shared memory": "/dev/shm",
}


@dataclass(frozen=True)
class Plant:
    """Something that lies in the container before the attack begins.

    ``kind``: "file" (text), "directory", "symlink" or "hardlink" (to ``source``), "program" (a
    copy of one of the suite's programs or of a file of the image), "script".
    """

    path: str
    kind: str = "file"
    source: str = ""


@dataclass(frozen=True)
class Attack:
    """One technique, and how to see whether it worked."""

    name: str
    group: str
    technique: str
    args: tuple[str, ...]
    plants: tuple[Plant, ...] = ()
    watch: tuple[str, ...] = ()  # paths whose state shows an effect; output "PWNED" always does
    source: str = ""
    privileged: bool = False  # needs more than Docker grants
    refused_inside: bool = False  # what is refused is not what the try reports (a library, say)
    tracepoint: str = "kill"  # what the tracepoint attachment does: kill, detect or miss
    impossible: str = ""  # kernels or file systems where it does not work without Rote either
    held: tuple[str, str] = ()  # type: ignore[assignment] # path and flags that are opened before


@dataclass(frozen=True)
class Deed:
    """Something that the service does, while it is learned and afterwards."""

    name: str
    technique: str
    args: tuple[str, ...]
    plants: tuple[Plant, ...] = ()
    says: str = ""
    privileged: bool = False


def _slug(text: str) -> str:
    return text.replace(" ", "-").replace("/", "-")


def _executions() -> Iterable[Attack]:
    """Every way to execute, of a program in every kind of place."""
    ways = {
        "execve": ("x_execve", "E1"),
        "execveat of a descriptor": ("x_execveat", "E1"),
        "execveat of a path descriptor": ("x_execveat_path", "E1"),
        "execveat from a directory": ("x_execveat_directory", "E1"),
        "the name of a descriptor": ("x_descriptor_name", "E6"),
        "proc self root": ("x_root_name", "E6"),
        "a relative name": ("x_relative", "E7"),
        "a second thread": ("x_thread", "E40"),
        "vfork": ("x_vfork", "E40"),
    }
    for place, directory in PLACES.items():
        path = "/opt/payload" if place == "image" else f"{directory}/payload"
        plants = () if place == "image" else (Plant(path, "program", "payload"),)
        for way, (technique, source) in ways.items():
            yield Attack(
                f"exec by {way} from {place}", "exec", technique, (path, path), plants,
                source=source if place not in ("tmpfs", "shared memory") else "E39",
            )  # fmt: skip


def _execution_specials() -> Iterable[Attack]:
    payload = "/opt/payload"
    yield Attack(
        "exec through a symbolic link", "exec", "x_execve", ("/added/link", "link"),
        (Plant("/added/link", "symlink", payload),), source="E2",
    )  # fmt: skip
    yield Attack(
        "exec of a hard link with a known name", "exec", "x_execve", ("/added/tool", "tool"),
        (Plant("/added/payload-a", "program", "payload"),
         Plant("/added/tool", "hardlink", "/added/payload-a")), source="E3",
    )  # fmt: skip
    yield Attack(
        "exec of a known path with other content", "exec", "x_execve",
        ("/usr/bin/changed", "changed"), (Plant("/usr/bin/changed", "program", "payload"),),
        source="E5",
    )  # fmt: skip
    yield Attack(
        "exec of another copy of a known program", "exec", "x_execve",
        ("/added/copied-tool", "tool"), (Plant("/added/copied-tool", "program", "payload"),),
        source="E4",
    )  # fmt: skip
    yield Attack(
        "exec with the argv of a known program", "exec", "x_execve", (payload, "/usr/bin/tool"),
        source="E36",
    )  # fmt: skip
    yield Attack(
        "exec below 40 directories", "exec", "x_execve",
        ("/added" + "/d" * 40 + "/usr/bin/tool", "tool"),
        (Plant("/added" + "/d" * 40 + "/usr/bin/tool", "program", "payload"),), source="E8",
    )  # fmt: skip
    yield Attack(
        "exec below 70 directories", "exec", "x_execve",
        ("/added" + "/e" * 70 + "/usr/bin/tool", "tool"),
        (Plant("/added" + "/e" * 70 + "/usr/bin/tool", "program", "payload"),), source="E8",
    )  # fmt: skip
    long = "/added/" + "t" * 200
    yield Attack(
        "exec of a name of 255 bytes", "exec", "x_execve", ("/added/" + "n" * 255, "tool"),
        (Plant("/added/" + "n" * 255, "program", "payload"),), source="E10",
    )  # fmt: skip
    yield Attack(
        "exec below directories of 200 bytes", "exec", "x_execve",
        (f"{long}/{'u' * 200}/{'v' * 200}/tool", "tool"),
        (Plant(f"{long}/{'u' * 200}/{'v' * 200}/tool", "program", "payload"),), source="E9",
    )  # fmt: skip
    yield Attack(
        "exec in a chroot under a known name", "exec", "x_chroot",
        ("/added/jail", "/usr/bin/tool", "tool"),
        (Plant("/added/jail/usr/bin/tool", "program", "payload"),), source="E11",
    )  # fmt: skip
    yield Attack(
        "exec through the parent's root", "exec", "x_parent_root_name", (payload, "tool"),
        source="E20",
    )  # fmt: skip
    yield Attack(
        "exec of a memfd", "exec", "x_memfd", (payload, "tool"), source="E24",
    )  # fmt: skip
    yield Attack(
        "exec of a memfd by its name", "exec", "x_memfd_name", (payload, "tool"), source="E24",
    )  # fmt: skip
    yield Attack(
        "exec of a known program from a memfd", "exec", "x_memfd", ("/opt/payload", "/bin/date"),
        source="E24",
    )  # fmt: skip
    yield Attack(
        "exec of a script in a memfd", "exec", "x_memfd_script", ("sh",), source="E35",
        tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "exec of an unnamed file", "exec", "x_unnamed", (payload, "tool"), source="E37",
    )  # fmt: skip
    yield Attack(
        "exec of a script", "exec", "x_execve", ("/opt/evil.sh", "evil.sh"), source="E33",
        tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "exec of a dropped script", "exec", "x_execve", ("/added/evil.sh", "known.sh"),
        (Plant("/added/evil.sh", "script", "#!/bin/sh\necho PWNED\n"),), source="E33",
        tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "exec of a changed script under its known name", "exec", "x_execve",
        ("/opt/known.sh", "known.sh"),
        (Plant("/opt/known.sh", "script", "#!/bin/sh\necho PWNED\n"),), source="E33",
        tracepoint="miss",
    )  # fmt: skip
    yield Attack(
        "exec of a script with an unknown interpreter", "exec", "x_execve",
        ("/opt/evil-interpreter.sh", "x"), source="E34",
    )  # fmt: skip
    yield Attack(
        "exec of a script on tmpfs", "exec", "x_execve", ("/tmp/evil.sh", "x"),
        (Plant("/tmp/evil.sh", "script", "#!/bin/sh\necho PWNED\n"),),
        source="E33", tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "an unknown applet by its link", "applet", "x_execve", ("/bin/echo", "echo", "PWNED"),
        source="E36",
    )  # fmt: skip
    yield Attack(
        "an unknown applet by argv[0]", "applet", "x_execve", ("/bin/busybox", "echo", "PWNED"),
        source="E36",
    )  # fmt: skip
    yield Attack(
        "an unknown applet by argv[1]", "applet", "x_execve",
        ("/bin/busybox", "busybox", "echo", "PWNED"), source="E36",
    )  # fmt: skip
    yield Attack(
        "an unknown applet by a path as argv[0]", "applet", "x_execve",
        ("/bin/busybox", "/added/x/echo", "PWNED"), source="E36",
    )  # fmt: skip
    yield Attack(
        "an unknown applet by a link with a known name", "applet", "x_execve",
        ("/added/date", "echo", "PWNED"), (Plant("/added/date", "symlink", "/bin/busybox"),),
        source="E36",
    )  # fmt: skip
    yield Attack(
        "an unknown program from a known shell", "exec", "x_execve",
        ("/bin/sh", "sh", "-c", "/opt/payload; true"), source="E1", refused_inside=True,
    )  # fmt: skip
    yield Attack(
        "a known program from an unknown parent", "exec", "x_execve",
        ("/usr/sbin/dynamic", "dynamic", "once", "x_execve", "/bin/date", "date", "+PWNED"),
        source="E1",
    )  # fmt: skip
    yield Attack(
        "exec in a new mount namespace", "exec", "x_mount_namespace", (payload, "tool"),
        source="E43", privileged=True,
    )  # fmt: skip
    yield Attack(
        "exec in a new user namespace", "exec", "x_user_namespace", (payload, "tool"),
        source="E43", privileged=True,
    )  # fmt: skip
    yield Attack(
        "exec in a new pid namespace", "exec", "x_pid_namespace", (payload, "tool"), source="E44",
        privileged=True,
    )  # fmt: skip
    yield Attack(
        "exec below a detached tree", "exec", "m_detached_exec", ("/added/tree", "tool", "tool"),
        (Plant("/added/tree/tool", "program", "payload"),), source="E16", privileged=True,
    )  # fmt: skip


def _code() -> Iterable[Attack]:
    """Code that is mapped rather than executed."""
    loader = "/lib64/ld-linux-x86-64.so.2"
    dynamic = "/usr/sbin/dynamic"
    for place in ("added", "volume", "tmpfs", "shared memory"):
        directory = PLACES[place]
        program = Plant(f"{directory}/payload-dynamic", "program", "payload-dynamic")
        library = Plant(f"{directory}/evil.so", "program", "evil.so")
        code = Plant(f"{directory}/code", "program", "code")
        yield Attack(
            f"the loader starts a program from {place}", "code", "x_execve",
            (loader, "ld.so", program.path), (program,), source="E25", refused_inside=True,
        )  # fmt: skip
        yield Attack(
            f"LD_PRELOAD from {place}", "code", "x_environment",
            ("LD_PRELOAD", library.path, dynamic, "dynamic", "once", "r_pipe"), (library,),
            source="E26", refused_inside=True,
        )  # fmt: skip
        yield Attack(
            f"dlopen from {place}", "code", "x_execve",
            (dynamic, "dynamic", "once", "x_dlopen", library.path), (library,), source="E26",
        )  # fmt: skip
        for way, technique in (
            ("mapped", "x_map"), ("mapped shared", "x_map_shared"), ("mapped later", "x_map_later"),
            ("mapped under an old personality", "x_map_personality"),
        ):  # fmt: skip
            yield Attack(
                f"code from {place} {way}", "code", technique, (code.path,), (code,), source="E27",
                tracepoint="miss" if technique == "x_map_later" else "kill",
            )  # fmt: skip
    yield Attack("code from a memfd", "code", "x_map_memory", ("/opt/code",), source="E28")
    yield Attack(
        "LD_AUDIT", "code", "x_environment",
        ("LD_AUDIT", "/vol/audit.so", dynamic, "dynamic", "once", "r_pipe"),
        (Plant("/vol/audit.so", "program", "evil.so"),), source="E26", refused_inside=True,
    )  # fmt: skip


def _writes() -> Iterable[Attack]:
    """Every way to change the content of a file, of every kind of place."""
    # (technique, source, what tracepoints do)
    ways = {
        "open": ("w_open", "W1", "kill"),
        "open for both": ("w_read_write", "W1", "kill"),
        "append": ("w_append", "W1", "kill"),
        "openat2": ("w_openat2", "W1", "kill"),
        "a directory's descriptor": ("w_directory", "W1", "kill"),
        "proc self root": ("w_root_name", "W35", "kill"),
        "the parent's root": ("w_parent_root_name", "W35", "kill"),
        "reopening a descriptor": ("w_reopen", "W16", "kill"),
        "reopening a path descriptor": ("w_reopen_path", "W16", "kill"),
        "open with O_TRUNC": ("w_truncate_open", "W3", "detect"),
        "open for reading with O_TRUNC": ("w_truncate_reading", "W4", "detect"),
        "truncate": ("w_truncate", "W5", "detect"),
        "a shared mapping": ("w_map", "W7", "kill"),
        "io_uring": ("w_uring", "W11", "miss"),
        "io_uring workers": ("w_uring_async", "W11", "miss"),
    }
    for place, directory in PLACES.items():
        for way, (technique, source, tracepoint) in ways.items():
            if place == "shared memory" and technique not in ("w_open", "w_map"):
                continue
            path = f"{directory}/{_slug(way)}"
            yield Attack(
                f"write by {way} to {place}", "write", technique, (path,), (Plant(path),), (path,),
                source=source, tracepoint=tracepoint,
            )  # fmt: skip


def _write_specials() -> Iterable[Attack]:
    for place in ("added", "volume", "tmpfs"):
        directory = PLACES[place]
        for way, technique in (
            ("created", "w_create"), ("created exclusively", "w_create_exclusive"),
            ("created for reading", "w_create_for_reading"), ("creat", "w_creat"),
        ):  # fmt: skip
            path = f"{directory}/new-{_slug(way)}"
            yield Attack(
                f"a new file {way} in {place}", "write", technique, (path,), watch=(path,),
                source="W21", tracepoint="detect",
            )  # fmt: skip
    yield Attack(
        "a new file by io_uring", "write", "w_uring_create", ("/added/new-by-uring",),
        watch=("/added/new-by-uring",), source="W11", tracepoint="miss",
    )  # fmt: skip
    yield Attack(
        "write through a symbolic link with a known name", "write", "w_open", ("/app/link",),
        (Plant("/added/behind"), Plant("/app/link", "symlink", "/added/behind")),
        ("/added/behind",), source="W23",
    )  # fmt: skip
    yield Attack(
        "write to a protected file", "write", "w_append", ("/etc/passwd",), watch=("/etc/passwd",),
        source="W1",
    )  # fmt: skip
    yield Attack(
        "write to a program", "write", "w_open", ("/usr/bin/tool",), watch=("/usr/bin/tool",),
        source="E5",
    )  # fmt: skip
    yield Attack(
        "write in a chroot under a known name", "write", "w_chroot",
        ("/added/cell", "/app/data/log-7"), (Plant("/added/cell/app/data/log-7"),),
        ("/added/cell/app/data/log-7",), source="W32",
    )  # fmt: skip
    yield Attack(
        "write below 60 directories", "write", "w_open", ("/added" + "/f" * 60 + "/x",),
        (Plant("/added" + "/f" * 60 + "/x"),), ("/added" + "/f" * 60 + "/x",), source="E8",
    )  # fmt: skip
    yield Attack(
        "write below 70 directories", "write", "w_open",
        ("/added" + "/g" * 70 + "/app/data/log-1",),
        (Plant("/added" + "/g" * 70 + "/app/data/log-1"),),
        ("/added" + "/g" * 70 + "/app/data/log-1",), source="E8",
    )  # fmt: skip
    yield Attack(
        "write through map_files", "write", "w_map_files", ("/vol/map-files",),
        (Plant("/vol/map-files"),), ("/vol/map-files",), source="W16", privileged=True,
    )  # fmt: skip
    yield Attack(
        "write through a file handle", "write", "w_handle", ("/vol/handle",),
        (Plant("/vol/handle"),), ("/vol/handle",), source="E23", privileged=True,
    )  # fmt: skip
    yield Attack(
        "an unnamed file that gets a name", "write", "w_unnamed_link", ("/vol", "/vol/named"),
        watch=("/vol/named",), source="W27", tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "a core dump", "write", "w_core", ("/vol",), watch=("/vol/core",), source="W17",
        refused_inside=True, tracepoint="miss",
        impossible="where core_pattern is a pipe or names no file in the working directory",
    )  # fmt: skip
    yield Attack(
        "write in a new mount namespace", "write", "w_mount_namespace", ("/vol/own-namespace",),
        (Plant("/vol/own-namespace"),), ("/vol/own-namespace",), source="E43", privileged=True,
    )  # fmt: skip
    yield Attack(
        "write in a new user namespace", "write", "w_user_namespace", ("/vol/user-namespace",),
        (Plant("/vol/user-namespace"),), ("/vol/user-namespace",), source="E43", privileged=True,
    )  # fmt: skip
    yield Attack(
        "a name that a thread changes meanwhile", "write", "w_thread_name",
        ("/app/data/log-1", "/added/raced"),
        (Plant("/added/raced"), Plant("/app/data/log-1")), ("/added/raced",),
        source="22",
    )  # fmt: skip
    yield Attack(
        "a setting of the kernel", "write", "w_open", ("/proc/sys/kernel/modprobe",),
        watch=("/proc/sys/kernel/modprobe",), source="E41", privileged=True,
    )  # fmt: skip


def _names() -> Iterable[Attack]:
    """Every way to change the name space."""
    for place in ("image", "added", "volume", "tmpfs"):
        d = PLACES[place]
        s = _slug(place)
        rows = (
            ("unlink", "n_unlink", (f"{d}/{s}-a",), (Plant(f"{d}/{s}-a"),), "W28"),
            ("unlinkat", "n_unlinkat", (f"{d}/{s}-b",), (Plant(f"{d}/{s}-b"),), "W28"),
            ("rmdir", "n_rmdir", (f"{d}/{s}-c",), (Plant(f"{d}/{s}-c", "directory"),), "W28"),
            ("rename", "n_rename", (f"{d}/{s}-d", f"{d}/{s}-e"),
             (Plant(f"{d}/{s}-d"), Plant(f"{d}/{s}-e")), "W24"),
            ("exchange", "n_exchange", (f"{d}/{s}-f", f"{d}/{s}-g"),
             (Plant(f"{d}/{s}-f", source="other\n"), Plant(f"{d}/{s}-g")), "W25"),
            ("link", "n_link", (f"{d}/{s}-h", f"{d}/{s}-h2"), (Plant(f"{d}/{s}-h"),), "W22"),
            ("symlink", "n_symlink", (f"{d}/{s}-i",), (), "W28"),
            ("mkdir", "n_mkdir", (f"{d}/{s}-j",), (), "W28"),
            ("mkfifo", "n_fifo", (f"{d}/{s}-k",), (), "W28"),
            ("mknod of a regular file", "n_regular", (f"{d}/{s}-l",), (), "W28"),
            ("bind of a socket", "n_socket", (f"{d}/{s}-m",), (), "W29"),
        )  # fmt: skip
        for way, technique, args, plants, source in rows:
            yield Attack(
                f"{way} in {place}", "names", technique, args, plants, args, source=source,
                tracepoint="detect",
                impossible="overlay before 6.x exchanges nothing" if way == "exchange" else "",
            )  # fmt: skip
    yield Attack(
        "rename a known temporary file over a protected one", "names", "n_rename",
        ("/app/data/new-1", "/etc/passwd"), (Plant("/app/data/new-1"),), ("/etc/passwd",),
        source="W24", tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "link a protected file to a known name", "names", "n_link",
        ("/etc/passwd", "/app/data/log-99"), (), ("/app/data/log-99",), source="W22",
        tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "link a program by its descriptor", "names", "n_link_descriptor",
        ("/added/linked", "/added/linked-again"), (Plant("/added/linked"),),
        ("/added/linked-again",), source="E3", tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "rename a directory away", "names", "n_rename", ("/added/here", "/added/gone"),
        (Plant("/added/here/file"),), ("/added/gone/file",), source="W26", tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "a character device", "names", "n_character", ("/added/device",), (), ("/added/device",),
        source="W28", tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "a block device", "names", "n_block", ("/added/disk",), (), ("/added/disk",), source="W20",
        tracepoint="detect",
    )  # fmt: skip
    for way, technique, args, plants in (
        ("unlink", "n_uring_unlink", ("/vol/u-a",), (Plant("/vol/u-a"),)),
        ("rename", "n_uring_rename", ("/vol/u-b", "/vol/u-c"), (Plant("/vol/u-b"),)),
        ("mkdir", "n_uring_mkdir", ("/vol/u-d",), ()),
        ("symlink", "n_uring_symlink", ("/vol/u-e",), ()),
        ("link", "n_uring_link", ("/vol/u-f", "/vol/u-g"), (Plant("/vol/u-f"),)),
    ):
        yield Attack(
            f"{way} by io_uring", "names", technique, args, plants, args, source="W12",
            tracepoint="miss",
        )  # fmt: skip


def _attributes() -> Iterable[Attack]:
    for place in ("image", "added", "volume"):
        d = PLACES[place]
        for way, technique in (
            ("chmod", "a_chmod"), ("fchmod", "a_fchmod"), ("chmod of a path descriptor",
             "a_chmod_descriptor"), ("chown", "a_chown"), ("lchown", "a_lchown"),
            ("fchown", "a_fchown"), ("a file capability", "a_capability"),
        ):  # fmt: skip
            if place == "volume" and technique == "a_capability":
                continue  # docs/limits.md: extended attributes of volumes
            path = f"{d}/attributes-{technique}"
            yield Attack(
                f"{way} in {place}", "attributes", technique, (path,), (Plant(path),), (path,),
                source="W30", tracepoint="detect",
            )  # fmt: skip
    yield Attack(
        "chmod of a program to setuid", "attributes", "a_chmod", ("/added/suid",),
        (Plant("/added/suid", "program", "payload"),), ("/added/suid",), source="W30",
        tracepoint="detect",
    )  # fmt: skip
    yield Attack(
        "inode flags", "attributes", "a_flags", ("/vol/flags",), (Plant("/vol/flags"),),
        ("/vol/flags",), source="W19", tracepoint="miss",
    )  # fmt: skip


def _mounts() -> Iterable[Attack]:
    rows = (
        ("tmpfs over a directory of programs", "m_tmpfs", ("/usr/bin",), (), ("/usr/bin/tool",),
         "E21"),
        ("bind over a known program", "m_bind", ("/opt/payload", "/usr/bin/tool"), (),
         ("/usr/bin/tool",), "E13"),
        ("bind a directory below a known name", "m_bind", ("/added", "/app/data"), (),
         ("/app/data",), "W31"),
        ("remount", "m_remount", ("/tmp",), (), ("/tmp",), "W30b"),
        ("unmount a volume", "m_unmount", ("/vol",), (), ("/vol",), "W30b"),
        ("bind in an own namespace and write", "m_own_namespace",
         ("/added", "/app/data", "/app/data/bound"), (Plant("/added/bound"),), ("/added/bound",),
         "W31"),
        ("tmpfs in a user namespace", "m_user_namespace", ("/app/data",), (), (), "E21"),
        ("move_mount", "m_move", ("/added", "/app/data"), (), ("/app/data",), "E15"),
        ("write below a detached tree", "m_detached_write", ("/added", "detached"),
         (Plant("/added/detached"),), ("/added/detached",), "W33"),
        ("a new file system by the new interface", "m_new_file_system", ("/app/data",), (),
         ("/app/data",), "E17"),
        ("pivot_root and write under a known name", "m_pivot", ("/added/pivot", "/app/data/log-5"),
         (Plant("/added/pivot/app/data/log-5"),), ("/added/pivot/app/data/log-5",), "E12"),
        ("write below an unmounted tree", "m_unmounted_write", ("/added", "unmounted"),
         (Plant("/added/unmounted"),), ("/added/unmounted",), "E18"),
    )  # fmt: skip
    for name, technique, args, plants, watch, source in rows:
        yield Attack(
            name, "mounts", technique, args, plants, watch, source=source, privileged=True,
            tracepoint="detect",
        )  # fmt: skip


def _processes() -> Iterable[Attack]:
    for name, technique, source in (
        ("ptrace attach", "t_attach", "E32"),
        ("ptrace seize", "t_seize", "E32"),
        ("ptrace of a willing child", "t_traceme", "E32"),
        ("process_vm_writev", "t_memory_write", "E31"),
        ("another process's memory file", "t_memory_file", "E31"),
        ("one's own memory file", "t_own_memory", "E30"),
    ):
        yield Attack(
            name, "processes", technique, (), source=source,
            tracepoint="kill" if technique.endswith(("_file", "own_memory")) else "miss",
            refused_inside=technique == "t_traceme",
            impossible="kernels that let nobody write so (7.x)" if "own" in technique else "",
        )  # fmt: skip


_HELD = (
    ("write", "h_write", "W13"), ("pwrite", "h_pwrite", "W2"), ("writev", "h_writev", "W2"),
    ("sendfile", "h_sendfile", "W9"), ("splice", "h_splice", "W9"),
    ("copy_file_range", "h_copy_range", "W10"), ("ftruncate", "h_truncate", "W5"),
    ("fallocate", "h_allocate", "W6"), ("io_uring", "h_uring", "W11"), ("mmap", "h_map", "W7"),
    ("reopening", "h_reopen", "W16"), ("a child", "h_fork_write", "W13"),
    ("pidfd_getfd", "t_take_descriptor", "W15"),
)  # fmt: skip


def held_attacks() -> list[Attack]:
    """Writes through descriptors that were open before prevention began."""
    found = []
    for place in ("added", "volume"):
        for way, technique, source in _HELD:
            path = f"{PLACES[place]}/held-{_slug(way)}"
            other = f"{PLACES[place]}/copied-from"
            # A write is over when its system call is seen to end.
            tracepoint = {"h_uring": "miss", "h_map": "kill", "h_reopen": "kill"}
            found.append(
                Attack(
                    f"{way} through an old descriptor in {place}",
                    "old descriptors",
                    technique,
                    (other,),
                    (Plant(path), Plant(other, source="something else\n")),
                    (path,),
                    source=source,
                    held=(path, "2"),
                    tracepoint=tracepoint.get(technique, "detect"),
                )
            )
    return found


def received_attacks() -> list[Attack]:
    """Writes through descriptors that come in from elsewhere."""
    return [
        Attack(
            "a descriptor over a socket",
            "received descriptors",
            "s_receive",
            ("/vol/socket",),
            (Plant("/vol/received"),),
            ("/vol/received",),
            source="W14",
            tracepoint="detect",
        )
    ]


def attacks(*, privileged: bool) -> list[Attack]:
    """All attacks that need no preparation of the container.

    Args:
        privileged: with those that need more capabilities than Docker grants.
    """
    found: list[Attack] = []
    for part in (
        _executions, _execution_specials, _code, _writes, _write_specials, _names, _attributes,
        _mounts, _processes,
    ):  # fmt: skip
        found.extend(part())
    names = [attack.name for attack in found]
    assert len(set(names)) == len(names), "a name stands for two attacks"
    return [attack for attack in found if privileged or not attack.privileged]


def deeds() -> list[Deed]:
    """What the service does while it is learned, and may do ever after."""
    tool, sh, date = ("/usr/bin/tool", "tool"), ("/bin/sh", "sh"), ("/bin/date", "date")
    found = [
        Deed("execute a known program", "x_execve", tool, says="OK"),
        Deed("by execveat", "x_execveat", tool, says="OK"),
        Deed("by a path descriptor", "x_execveat_path", tool, says="OK"),
        Deed("from a directory", "x_execveat_directory", tool, says="OK"),
        Deed("by a descriptor's name", "x_descriptor_name", tool, says="OK"),
        Deed("by the root's name", "x_root_name", tool, says="OK"),
        Deed("by a relative name", "x_relative", tool, says="OK"),
        Deed("from a second thread", "x_thread", tool, says="OK"),
        Deed("by vfork", "x_vfork", tool, says="OK"),
        Deed("execute what will change", "x_execve", ("/usr/bin/changed", "changed"), says="OK"),
        Deed("a known applet by its link", "x_execve", (*date, "+OK"), says="OK"),
        Deed("a known applet by argv[0]", "x_execve", ("/bin/busybox", "date", "+OK"), says="OK"),
        Deed("a known applet by argv[1]", "x_execve", ("/bin/busybox", "busybox", "date", "+OK"),
             says="OK"),
        Deed("a shell that starts a program", "x_execve", (*sh, "-c", "/usr/bin/tool; true"),
             says="OK"),
        Deed("a shell's pipeline", "x_execve", (*sh, "-c", "/bin/date +OK | /bin/cat"), says="OK"),
        Deed("a known script", "x_execve", ("/opt/known.sh", "known.sh"), says="OK"),
        Deed("a script that a shell reads", "x_execve", (*sh, "/opt/known.sh"), says="OK"),
        Deed("a dynamic program", "x_execve", ("/usr/sbin/dynamic", "dynamic", "once", "r_pipe")),
        Deed("dlopen of the image's library", "x_execve",
             ("/usr/sbin/dynamic", "dynamic", "once", "x_dlopen", "/opt/good.so"), says="OK"),
        Deed("execute a known program on a volume", "x_execve", ("/vol/tool", "tool"),
             (Plant("/vol/tool", "program", "tool"),), says="OK"),
        Deed("map the image's code", "x_execve", ("/usr/sbin/service", "service", "once", "r_read",
                                                  "/opt/code")),
        Deed("map the image's code and make it executable later", "x_map_later", ("/opt/code",),
             says="PWNED"),
        Deed("read a file", "r_read", ("/etc/passwd",)),
        Deed("read what may not be written", "r_read", ("/opt/payload",)),
        Deed("read a new file on a volume", "r_read", ("/vol/readable",),
             (Plant("/vol/readable"),)),
        Deed("write to a memfd", "r_memory", ()),
        Deed("write to a pipe", "r_pipe", ()),
        Deed("write to a socket", "r_socket", ()),
        Deed("executable memory, as compilers need it", "r_code_memory", ()),
        Deed("shared memory without a file", "r_shared_memory", ()),
        Deed("a private writable mapping", "r_private_map", ("/etc/passwd",)),
        Deed("write to /dev/null", "w_open", ("/dev/null",)),
        Deed("create a log", "w_create", ("/app/data/log-1",)),
        Deed("write another log", "w_open", ("/app/data/log-2",), (Plant("/app/data/log-2"),)),
        Deed("append to a log", "w_append", ("/app/data/log-1",)),
        Deed("write a log by openat2", "w_openat2", ("/app/data/log-1",)),
        Deed("write a log from its directory", "w_directory", ("/app/data/log-1",)),
        Deed("write a log by the root's name", "w_root_name", ("/app/data/log-1",)),
        Deed("reopen a log", "w_reopen", ("/app/data/log-1",)),
        Deed("map a log", "w_map", ("/app/data/log-1",)),
        Deed("truncate a log", "w_truncate", ("/app/data/log-1",)),
        Deed("truncate a log while opening it", "w_truncate_open", ("/app/data/log-1",)),
        Deed("write a log by io_uring", "w_uring", ("/app/data/log-1",)),
        Deed("copy into a log", "r_copy", ("/etc/passwd", "/app/data/log-3")),
        Deed("replace a file by a new one", "r_replace", ("/app/data/new-1", "/app/data/state")),
        Deed("remove a log", "n_unlink", ("/app/data/log-3",)),
        Deed("make a directory", "n_mkdir", ("/app/data/cache",)),
        Deed("remove a directory", "n_rmdir", ("/app/data/cache",)),
        Deed("make a symbolic link", "n_symlink", ("/app/data/current",)),
        Deed("remove a symbolic link", "n_unlink", ("/app/data/current",)),
        Deed("make a hard link", "n_link", ("/app/data/log-1", "/app/data/twin-1")),
        Deed("remove a hard link", "n_unlink", ("/app/data/twin-1",)),
        Deed("make a fifo", "n_fifo", ("/app/data/fifo",)),
        Deed("remove a fifo", "n_unlink", ("/app/data/fifo",)),
        Deed("bind a socket", "n_socket", ("/app/data/socket",)),
        Deed("remove a socket", "n_unlink", ("/app/data/socket",)),
        Deed("change a log's mode", "a_chmod", ("/app/data/log-1",)),
        Deed("change a log's owner", "a_chown", ("/app/data/log-1",)),
        Deed("write on a volume", "w_create", ("/vol/known",)),
        Deed("write in a directory on a volume", "w_create", ("/vol/place/known",),
             (Plant("/vol/place", "directory"),)),
        Deed("write on tmpfs", "w_create", ("/tmp/known",)),
        Deed("write in shared memory", "w_create", ("/dev/shm/known",)),
        Deed("an unnamed temporary file", "w_unnamed", ("/tmp",)),
    ]  # fmt: skip
    return [deed for deed in found if deed.technique != "w_unnamed"]
