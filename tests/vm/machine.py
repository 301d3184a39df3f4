"""One virtual machine: a kernel, the root image, a job that goes in and results that come out."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm.disk import SIGNATURE
from tests.vm.host import REPOSITORY, VmError, call, end
from tests.vm.kernels import Kernel

_BUILT = ("tests/evasion/.build", "tests/bench/.build")
_RESULTS_BYTES = 1 << 30  # sparse
# What a kernel must not say. A soft lockup or a stall may be the emulation's slowness.
_COMPLAINT = re.compile(r"(?:BUG: (?!soft lockup)|Oops|WARNING: .* at |general protection fault).*")


@dataclass(frozen=True)
class Settings:
    """What a machine is to do."""

    command: Sequence[str]
    environment: Mapping[str, str]
    lsm: str
    icount: bool
    memory_mb: int
    timeout: float
    results: Path


@dataclass
class Outcome:
    """How a machine ended."""

    seconds: float
    code: int | None  # of the command; None: it did not end
    problem: str = ""  # why there is no code
    boot_seconds: float = 0
    complaints: list[str] = field(default_factory=list)  # of the kernel


class Machine:
    """A running virtual machine. Ends with ``close``, whatever happened."""

    def __init__(self, kernel: Kernel, root: Path, settings: Settings) -> None:
        """Start it.

        Raises:
            VmError: the job cannot be packed, or QEMU does not start.
        """
        self.kernel = kernel
        self.results = settings.results / kernel.name
        self.output = self.results / "output.log"
        self._limit = settings.timeout
        shutil.rmtree(self.results, ignore_errors=True)
        self.results.mkdir(parents=True)
        self.output.touch()
        self._scratch = tempfile.TemporaryDirectory(prefix="rote-vm-")
        scratch = Path(self._scratch.name)
        self._returned = scratch / "returned"
        try:
            _pack_job(scratch / "job", settings)
            with self._returned.open("wb") as file:
                file.truncate(_RESULTS_BYTES)
            self._started = time.monotonic()
            self._qemu = subprocess.Popen(
                # Should this process be killed, the machine goes with it.
                ["setpriv", "--pdeathsig", "KILL", *self._command(root, scratch, settings)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(self.results / "qemu.log").open("wb"),
            )
        except BaseException:
            self._scratch.cleanup()
            raise

    def _command(self, root: Path, scratch: Path, settings: Settings) -> list[str]:
        append = [
            "console=ttyS0",
            f"root=PARTUUID={SIGNATURE:08x}-01",
            "rootwait rootfstype=ext4 rw init=/usr/sbin/vm-init",
            f"lsm={settings.lsm}",
            # The kernel's tests of its ciphers would run beside the first seconds of the command.
            "cryptomgr.notests",
            # A panic ends the machine, by -no-reboot.
            "panic=-1 quiet",
        ]
        # Never thread=multi: parallel CPUs trip over code that a kernel patches while it boots
        # ("Oops: int3", now and then), and two machines fill two cores anyway.
        speed = ["-accel", "tcg,thread=single", "-smp", "2"]
        if settings.icount:
            speed = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
            append.append("norandmaps nokaslr tsc_early_khz=1000000")
        disks = [
            f"file={root},snapshot=on,cache=unsafe",
            f"file={scratch / 'job'},readonly=on",
            f"file={self._returned},cache=unsafe",
            f"file={self.kernel.modules},readonly=on",
        ]
        command = [
            "qemu-system-x86_64", "-M", "pc", *speed, "-cpu", "max",
            "-m", str(settings.memory_mb),
            "-kernel", str(self.kernel.image), "-append", " ".join(append),
            "-device", "nvme,id=disk,serial=rote",
            "-nodefaults", "-nic", "none", "-vga", "none", "-display", "none",
            "-serial", f"file:{self.results / 'console.log'}", "-serial", f"file:{self.output}",
            "-no-reboot",
        ]  # fmt: skip
        for number, disk in enumerate(disks, 1):
            command += ["-drive", f"if=none,id=drive{number},format=raw,{disk}"]
            command += ["-device", f"nvme-ns,drive=drive{number},bus=disk,nsid={number}"]
        return command

    def poll(self) -> Outcome | None:
        """How it ended; None while it runs. Past its limit it is ended here."""
        seconds = time.monotonic() - self._started
        if self._qemu.poll() is None:
            if seconds < self._limit:
                return None
            return Outcome(seconds, None, f"not done after {self._limit:.0f} s, ended")
        if self._qemu.returncode:
            said = (self.results / "qemu.log").read_text(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"status {self._qemu.returncode}"
            return Outcome(seconds, None, f"QEMU failed: {reason}")
        returned = Path(self._scratch.name) / "out"
        returned.mkdir()
        try:
            call(["tar", "-xf", self._returned, "-C", returned], what="results")
            code = int((returned / "code").read_text())
        except (VmError, OSError, ValueError):
            return Outcome(seconds, None, f"the guest died: {self._last_words()}")
        dmesg = (returned / "dmesg").read_text(errors="replace")
        (self.results / "dmesg.log").write_text(dmesg)
        shutil.copytree(returned / "results", self.results, symlinks=True, dirs_exist_ok=True)
        return Outcome(
            seconds,
            code,
            boot_seconds=float((returned / "booted").read_text()),
            complaints=_COMPLAINT.findall(dmesg),
        )

    def _last_words(self) -> str:
        console = (self.results / "console.log").read_text(errors="replace")
        panic = re.search(r"Kernel panic.*|Oops.*|BUG:.*", console)
        lines = [line.strip() for line in console.splitlines() if line.strip()]
        return panic[0].strip() if panic else lines[-1] if lines else "it printed nothing"

    def close(self) -> None:
        """End it if it still runs, and remove its disks."""
        if self._qemu.poll() is None:
            end(self._qemu)
        self._scratch.cleanup()


def _pack_job(path: Path, settings: Settings) -> None:
    """The job: this checkout as it is now, the second part of PID 1, the command."""
    listed = call(
        ["git", "-C", REPOSITORY, "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z",
         "--cached", "--others", "--exclude-standard"],
        what="the files of this checkout",
    )  # fmt: skip
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in settings.environment.items()
    )
    with tarfile.open(path, "w") as tar:
        for name in _BUILT:
            if (REPOSITORY / name).exists():  # there is no compiler in the guest
                tar.add(REPOSITORY / name, f"rote/{name}")
        for name in sorted(set(listed.split("\0")) - {""}):
            file = REPOSITORY / name
            if file.is_symlink() or file.is_file():  # not if removed and not yet committed
                tar.add(file, f"rote/{name}", recursive=False)
        _add(tar, "job/guest.sh", (REPOSITORY / "tests/vm/guest.sh").read_text())
        _add(tar, "job/command", f"{exports}{shlex.join(settings.command)}\n")


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    entry.mtime = int(time.time())
    tar.addfile(entry, io.BytesIO(text.encode()))
