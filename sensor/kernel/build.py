"""The short-lived process that compiles, loads, checks, attaches and pins; then it ends.

The only code that knows bcc. It runs as ``python -m sensor.kernel.build`` with a JSON request on
standard input and answers with one JSON object on standard output, so that the daemon never holds
a compiler: bcc and LLVM cost some 150 MB while they work.

Why not ``BPF.attach_*``: BCC attaches what its naming convention tells it to, before a map is
filled, and gives up at the first refusal. Here everything is filled before anything is attached,
and a hook that a kernel lacks is reported with the kernel's reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from sensor.errors import KernelSupportError
from sensor.kernel import bpf
from sensor.kernel.headers import header_tree
from sensor.kernel.layout import check_mirrors, header
from sensor.kernel.probe import lsm_refused, trampolines_refused
from sensor.kernel.syscalls import syscall_table
from sensor.kernel.unit import LOCK, MAIN, unit_text
from sensor.paths import MARKS

ATTACH_NUMBERS = {"tracepoint": 0, "fmod-ret": 1, "lsm": 2}
REFUSALS: dict[str, Callable[[], str | None]] = {
    "lsm": lsm_refused,
    "fmod-ret": trampolines_refused,
    "tracepoint": lambda: None,
}
_RAW_TRACEPOINT, _TRACING, _LSM = 17, 26, 29  # enum bpf_prog_type

# Without these Rote would miss whole classes of behaviour, so their absence is an error.
MANDATORY = (
    "sched_process_exec", "bprm_committed_creds", "sched_process_fork", "sched_process_exit",
    "cgroup_mkdir", "cgroup_rmdir", "sys_exit", "file_open", "path_rename", "path_unlink",
    "bprm_check_security", "mmap_file", "path_mknod",
)  # fmt: skip
# An older kernel has other hooks, or no system call, for what these see.
NEWER = ("file_truncate", "inode_file_setattr")
# A program on every write of the host: the daemon attaches it only while it is needed.
ON_DEMAND = "file_permission"
_LOCK_MAPS = ("lock_keepers", "lock_objects", "lock_settings")
_LOCK_HOOKS = 13  # of bpf/lock.bpf.c
_OWN_PROGRAM = 1 << 31  # OWN_PROGRAM in bpf/maps.h
_SELFTEST = "task_rename"
_PR_SET_NAME, _PR_SET_PDEATHSIG = 15, 1
_MAPS = (
    "events", "containers", "tasks", "resolved", "counts", "edges", "short_edges", "places",
    "exec_keys", "write_keys", "names", "probes", "judged", "expected", "own_objects", "syscalls",
    "settings", "bytes",
)  # fmt: skip


class Builder:
    """One attempt to bring one attachment up.

    Args:
        request: ``attach`` (candidates, best first), ``pins`` (directory to pin in), ``cache``,
            ``typed`` (the kernel can follow typed pointers),
            ``heal`` (programs on tracepoints can be skipped), ``lock`` (the script that may unlock,
            or ""), ``daemon_pid``, ``ring_pages``,
            ``cgroup_subsys``, ``cgroup_hierarchy``, ``settings`` (enum rote_config_key → value).
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.missing: list[tuple[str, str]] = []
        self.links: dict[str, int] = {}
        self.verified: dict[str, int] = {}
        self.modules: list[Any] = []  # kept: their descriptors are used later
        self.typed = False
        self.maps: dict[str, int] = {}
        self.programs: dict[str, tuple[int, int]] = {}

    def build(self) -> dict[str, Any]:
        """Try the candidates in order; the answer for the daemon.

        Raises:
            KernelSupportError: none of them works here.
        """
        started = time.monotonic()
        check_mirrors()
        os.environ["BCC_KERNEL_SOURCE"] = str(header_tree(Path(self.request["cache"])))
        bcc = _import_bcc()
        notes: list[str] = []
        for attach, typed in self._attempts(notes):
            self.missing, self.links, self.verified = [], {}, {}
            self.typed = typed
            try:
                self._bring_up(bcc, attach)
                if self.request["lock"]:
                    self._bring_up_lock(bcc, attach)
            except _RefusedError as error:
                notes.append(f"{attach}{', typed pointers' if typed else ''}: {error}")
                self._take_down()
                continue
            return {
                "attach": attach,
                "hooks": sorted(self.links),
                "verified": self.verified,
                "missing": self.missing,
                "notes": notes,
                "bcc": bcc.__version__,
                "seconds": round(time.monotonic() - started, 3),
            }
        raise KernelSupportError(
            "this kernel takes none of Rote's attachments: " + "; ".join(notes)
        )

    def _attempts(self, notes: list[str]) -> Iterator[tuple[str, bool]]:
        """(attachment, whether through typed pointers), best first; what is refused is noted."""
        for attach in self.request["attach"]:
            # Asked first, because a whole compile is a dear way to hear no.
            refused = REFUSALS[attach]()
            if refused:
                notes.append(f"{attach}: {refused}")
                continue
            if self.request["typed"] and attach != "tracepoint":
                yield attach, True
            yield attach, False

    def _bring_up(self, bcc: Any, attach: str) -> None:
        module = self._compile(bcc, attach)
        maps = {name: module[name].map_fd for name in _MAPS}
        self._fill(maps)
        programs = {
            hook: (fd, kind)
            for name in sorted(_functions(bcc, module), key=_mandatory_first)
            for hook, fd, kind in self._load(module, name)
        }
        self._selftest(module, programs.pop(_SELFTEST)[0])
        self.modules.append(module)
        self.maps, self.programs = maps, programs
        pins = Path(self.request["pins"])
        for directory in (pins / "maps", pins / "programs", pins / "links"):
            directory.mkdir(parents=True, exist_ok=True)
        self._note_own(maps, programs)
        for name, fd in maps.items():
            bpf.pin(fd, pins / "maps" / name)
        for hook, (fd, kind) in programs.items():
            if hook == ON_DEMAND:
                bpf.pin(fd, pins / "programs" / hook)
                continue
            try:
                self.links[hook] = bpf.attach(fd, hook if kind == _RAW_TRACEPOINT else None)
            except OSError as error:
                self._refused(hook, f"attach: {error.strerror}")
                continue
            bpf.pin(self.links[hook], pins / "links" / hook)

    def _bring_up_lock(self, bcc: Any, attach: str) -> None:
        """Load the lock's own unit. None of its hooks is optional."""
        module = self._compile(bcc, attach, LOCK)
        maps = {name: module[name].map_fd for name in _LOCK_MAPS}
        programs = {}
        for name in _functions(bcc, module):
            for hook, fd, kind in self._load(module, name):
                programs[hook] = (fd, kind)
        if len(programs) != _LOCK_HOOKS:
            lacking = "; ".join(f"{hook}: {reason}" for hook, reason in self.missing)
            raise _RefusedError(f"--lock: this kernel lacks a hook: {lacking}")
        self._fill_lock(maps, programs)
        pins = Path(self.request["pins"])
        for map_name, fd in maps.items():
            bpf.pin(fd, pins / "maps" / map_name)
        for hook, (fd, kind) in programs.items():
            label = f"lock_{hook}"  # a dot is not allowed there
            self.links[label] = bpf.attach(fd, hook if kind == _RAW_TRACEPOINT else None)
            bpf.pin(self.links[label], pins / "links" / label)

    def _fill_lock(self, maps: dict[str, int], programs: dict[str, tuple[int, int]]) -> None:
        """Who the lock lets through, and what it guards: both units' objects and the pins."""
        keys = header().enums["lock_key"]
        script, place = (
            Path(self.request["lock"]).stat(),
            Path(self.request["pins"]).parent.stat(),
        )
        values = {
            "LOCK_DAEMON_PID": self.request["daemon_pid"],
            "LOCK_SCRIPT_INODE": script.st_ino,
            "LOCK_SCRIPT_DEVICE": _kernel_device(script.st_dev),
            "LOCK_PINS": place.st_ino,
            "LOCK_BPFFS": _kernel_device(place.st_dev),
        }
        own = {bpf.object_id(fd) for fd in (*self.maps.values(), *maps.values())}
        own |= {
            bpf.object_id(fd) | _OWN_PROGRAM
            for fd, _ in (*self.programs.values(), *programs.values())
        }
        with contextlib.closing(bpf.Map(os.dup(maps["lock_settings"]), 4, 8)) as settings:
            for name, value in values.items():
                settings.update(keys[name].to_bytes(4, "little"), value.to_bytes(8, "little"))
        with contextlib.closing(bpf.Map(os.dup(maps["lock_keepers"]), 4, 4)) as keepers:
            for pid in (os.getpid(), self.request["daemon_pid"]):
                keepers.update(pid.to_bytes(4, "little"), (2).to_bytes(4, "little"))
        with contextlib.closing(bpf.Map(os.dup(maps["lock_objects"]), 4, 4)) as objects:
            for number in own:
                objects.update(number.to_bytes(4, "little"), bytes(4))

    def _note_own(self, maps: dict[str, int], programs: dict[str, tuple[int, int]]) -> None:
        """Let the guard know which maps and programs are Rote's."""
        own = bpf.Map(os.dup(maps["own_objects"]), 4, 4)
        for fd in maps.values():
            own.update(bpf.object_id(fd).to_bytes(4, "little"), bytes(4))
        for fd, _ in programs.values():
            own.update((bpf.object_id(fd) | _OWN_PROGRAM).to_bytes(4, "little"), bytes(4))
        own.close()

    def _compile(self, bcc: Any, attach: str, main: str = MAIN) -> Any:
        bcc.BPF._trace_autoload = lambda _: None  # noqa: SLF001 - the only way not to attach
        flags = [
            "-ffine-grained-bitfield-accesses",
            "-fms-extensions",  # the kernel is built with it; "struct tag;" is a member then
            "-Wno-unused-function",
            f"-DATTACH={ATTACH_NUMBERS[attach]}",
            f"-DTYPED={int(self.typed)}",
            f"-DHEAL={int(self.request['heal'])}",
            f"-DRING_PAGES={self.request['ring_pages']}",
            f"-DCGROUP_SUBSYS={self.request['cgroup_subsys']}",
            f"-DCGROUP_HIERARCHY={self.request['cgroup_hierarchy']}",
        ]
        with _captured_stderr() as output:
            try:
                module = bcc.BPF(text=unit_text(main=main), cflags=flags)
            except Exception as error:
                raise KernelSupportError(
                    f"the BPF sources do not compile against this kernel: {_first_error(output())}"
                ) from error
            warnings = output()
        if "declaration does not declare anything" in warnings:
            # An older bpftool drops anonymous members it does not understand: wrong offsets.
            raise KernelSupportError(
                "bpftool is older than this kernel's type information; expected a bpftool of "
                "about the kernel's age, install it from the same release as the kernel"
            )
        return module

    def _load(self, module: Any, name: bytes) -> Iterator[tuple[str, int, int]]:
        prefix, _, hook = name.decode().partition("__")
        kind = {"raw_tracepoint": _RAW_TRACEPOINT, "lsm": _LSM, "kmod_ret": _TRACING}[prefix]
        hook = _hook_name(hook)
        with _captured_stderr() as output:
            try:
                function = module.load_func(name, kind)
            except Exception:  # noqa: BLE001 - bcc raises the bare class
                self._refused(hook, _verifier_reason(output()))
                return
        self.verified[hook] = bpf.verified_instructions(function.fd)
        yield hook, function.fd, kind

    def _refused(self, hook: str, reason: str) -> None:
        if hook in NEWER and "not found" in reason:
            return
        if hook in MANDATORY:
            raise _RefusedError(f"{hook}: {reason}")
        self.missing.append((hook, reason))

    def _fill(self, maps: dict[str, int]) -> None:
        settings = bpf.Map(os.dup(maps["settings"]), 4, 8)
        for key, value in self.request["settings"].items():
            settings.update(int(key).to_bytes(4, "little"), int(value).to_bytes(8, "little"))
        settings.update(
            header().enums["config_key"]["CONFIG_SELF_PID"].to_bytes(4, "little"),
            os.getpid().to_bytes(8, "little"),
        )
        settings.close()
        table = bpf.Map(os.dup(maps["bytes"]), 4, 256)
        table.update(bytes(4), bytes(byte_kind(byte) for byte in range(256)))
        table.close()
        entry = header().structs["syscall_entry"]
        syscalls = bpf.Map(os.dup(maps["syscalls"]), 4, entry.size)
        for number, value in syscall_table().items():
            syscalls.update(number.to_bytes(4, "little"), value)
        syscalls.close()
        counters = header().structs["counters"]
        counts = bpf.Map(os.dup(maps["counts"]), 8, counters.size)
        counts.update(bytes(8), bytes(counters.size))
        counts.close()

    def _selftest(self, module: Any, fd: int) -> None:
        """Compare what the kernel side reads of this process with what user space knows."""
        link = bpf.attach(fd, _SELFTEST)
        try:
            ctypes.CDLL(None).prctl(_PR_SET_NAME, b"rote-build", 0, 0, 0)
        finally:
            os.close(link)
        layout = header().structs["selftest"]
        results = bpf.Map(os.dup(module["selftests"].map_fd), 4, layout.size)
        seen = layout.unpack(results.lookup(bytes(4)) or bytes(layout.size))
        results.close()
        program = Path("/proc/self/exe").stat()
        expected = {
            "pid": os.getpid(),
            "mount_namespace": Path("/proc/self/ns/mnt").stat().st_ino,
        }
        if os.major(program.st_dev):  # overlayfs and btrfs show other numbers than they keep
            expected["inode"] = program.st_ino
        for name, value in expected.items():
            if seen[name] != value:
                raise KernelSupportError(
                    f"self-test: the kernel side reads {name} {seen[name]} where {value} is "
                    "right; this kernel's structures are laid out otherwise than its type "
                    "information says, please report it"
                )

    def _take_down(self) -> None:
        for fd in self.links.values():
            os.close(fd)
        with contextlib.suppress(PermissionError):  # under another version's lock
            remove_pins(Path(self.request["pins"]))


def _functions(bcc: Any, module: Any) -> list[bytes]:
    number = bcc.lib.bpf_num_functions(module.module)
    return [bcc.lib.bpf_function_name(module.module, i) for i in range(number)]


def _kernel_device(device: int) -> int:
    """A device as the kernel keeps it (MKDEV)."""
    return os.major(device) << 20 | os.minor(device)


class _RefusedError(Exception):
    """The kernel refuses what this attachment cannot do without."""


def remove_pins(directory: Path) -> list[str]:
    """Remove a directory of pins, links first; what was removed."""
    removed = []
    for part in ("links", "programs", "maps"):
        for path in sorted((directory / part).glob("*")):
            path.unlink()
            removed.append(f"{part}/{path.name}")
        with contextlib.suppress(FileNotFoundError):
            (directory / part).rmdir()
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()
    return removed


def byte_kind(byte: int) -> int:
    """The BYTE_* bits of bpf/match.bpf.c for one byte."""
    if byte in MARKS:
        return 32
    if 0x61 <= byte <= 0x7A:
        return 1 | 16 | (8 if byte > 0x66 else 0) | 64 | 128
    if 0x41 <= byte <= 0x5A:
        return 2 | 8 | (16 if byte > 0x46 else 0) | 64
    if 0x30 <= byte <= 0x39:
        return 4 | 64 | 128
    return 128 if byte == 0x5F else 0


def _mandatory_first(name: bytes) -> tuple[bool, bytes]:
    hook = _hook_name(name.decode().partition("__")[2])
    return hook not in ("file_open", "sys_exit"), name


def _hook_name(function: str) -> str:
    """What people call a hook, whichever way it is attached: the LSM's name for it."""
    hook = function.removeprefix("vmlinux__").removeprefix("security_")
    return "bprm_check_security" if hook == "bprm_check" else hook


def _import_bcc() -> Any:
    try:
        import bcc
    except ImportError as error:
        raise KernelSupportError(
            f"python3-bpfcc cannot be imported ({error}); expected the distribution's package: "
            "apt-get install python3-bpfcc"
        ) from error
    if not hasattr(bcc, "BPF"):
        raise KernelSupportError(
            f"{bcc.__file__}: this is another package named bcc; expected the distribution's "
            "python3-bpfcc: pip uninstall bcc, then apt-get install python3-bpfcc"
        )
    return bcc


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Any]:
    """BCC and the verifier write to descriptor 2 only; yields a function that gives it so far."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def text() -> str:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            return file.read().decode(errors="replace")

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _first_error(output: str) -> str:
    for line in output.splitlines():
        if "error:" in line:
            return line.strip()
    return output.strip()[-200:] or "no message"


_NOISE = re.compile(r"^(processed|verification|stack depth|;|\d+: \(|R\d|from \d|func#|mark_)")


def _verifier_reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if not _NOISE.match(line)]
    for line in reversed(telling):
        if "Failed to load program" not in line and not line.startswith("HINT"):
            return line[:300]
    return telling[-1][:300] if telling else "no reason given"


def main() -> int:
    """Read the request, answer, end."""
    # A daemon that was killed meanwhile is started again, and builds in the same place.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    request = orjson.loads(sys.stdin.buffer.read())
    try:
        answer = Builder(request).build()
    except KernelSupportError as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": f"{error.filename or 'bpf()'}: {error.strerror}"}
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
    return 0 if "error" not in answer else 4


if __name__ == "__main__":
    sys.exit(main())
