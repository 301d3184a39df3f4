"""Count what operations cost, with Rote and without; see scripts/bench.

    scripts/bench cost

Runs inside a virtual machine in which a nanosecond is an instruction (scripts/vm --icount). One
small program (operations.c) does each operation over and over; around it the situation changes:
nothing loaded, Rote loaded, the program outside, the program inside under prevention.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sensor.containers.container import Image
from sensor.events import Actor, OperationClass, Origin
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import NOTHING_REFUSED, ContainerFlag, Mode
from sensor.models.keys import ExecKey, Program, WriteKey
from sensor.models.model import Evidence, Model
from sensor.responses.knowledge import Knowledge
from tests.bench import peers
from tests.live import KernelTestSettings, cgroup_root

BUILT = Path(__file__).with_name(".build")
_PROGRAMS = Path("/opt/bench")
_TMPFS = Path("/tmp/bench")
_EXT4 = Path("/var/tmp/bench")
_FLAGS = ContainerFlag.HOST_MOUNTS | ContainerFlag.NO_SESSIONS | ContainerFlag.WATCHED
_WITH_ROTE = ("loaded", "outside", "inside", "hooks", "keys", "cgroups", "probe")
_ROUNDS = 9
_MAP_UPDATE_BATCH = 26  # enum bpf_cmd

Costs = dict[str, float]


def _say(text: str) -> None:
    sys.stdout.write(f"cost: {text}\n")
    sys.stdout.flush()


@dataclass
class Report:
    """What was measured."""

    kernel: str = field(default_factory=lambda: os.uname().release)
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    situations: dict[str, Costs] = field(default_factory=dict)
    hooks: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_operations(
    enter: Callable[[], None] | None = None, *, only: str = "", wrapper: Iterable[str] = ()
) -> tuple[Costs, dict[str, int]]:
    """Run operations.c; cost by operation, and how often each was done.

    Args:
        enter: called in the new process before it executes the program.
        only: one operation.
        wrapper: a command that executes the program.
    """
    command = [*wrapper, str(_PROGRAMS / "operations"), str(_PROGRAMS), str(_TMPFS), str(_EXT4)]
    result = subprocess.run(
        [*command, str(_ROUNDS), *([only] if only else [])],
        preexec_fn=enter,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if result.returncode:
        raise SystemExit(f"operations: status {result.returncode}: {result.stderr.strip()}")
    rows = [line.split() for line in result.stdout.splitlines()]
    return {row[0]: float(row[1]) for row in rows}, {row[0]: int(row[2]) for row in rows}


def prepare() -> None:
    """The programs, and the files that they work on."""
    for place in (_PROGRAMS, _TMPFS, _EXT4):
        place.mkdir(parents=True, exist_ok=True)
    for name in ("operations", "tiny-static", "tiny-dynamic"):
        shutil.copy(BUILT / name, _PROGRAMS / name)
    for place in (_TMPFS, _EXT4):
        for name in ("data", "a"):
            (place / name).write_bytes(bytes(4096))
    os.sync()
    run_operations()  # a fresh boot's first run costs more: caches fill, code is patched


class Bench:
    """Takes the figures one after the other, and says each at once.

    Args:
        output: where the report goes; written anew after each situation.
        only: beginnings of the situations' names that are wanted; empty: all.
    """

    def __init__(self, output: Path, only: tuple[str, ...]) -> None:
        self.report = Report()
        self._output = output
        self._only = only

    def wants(self, name: str) -> bool:
        """Whether a situation is asked for."""
        return not self._only or name.startswith(self._only)

    def take(
        self,
        name: str,
        enter: Callable[[], None] | None = None,
        *,
        wrapper: Iterable[str] = (),
    ) -> None:
        """Measure in one situation."""
        if not self.wants(name):
            return
        costs, _ = run_operations(enter, wrapper=wrapper)
        self.report.situations[name] = costs
        self.save()
        base = self.report.situations.get("nothing", costs)
        line = " ".join(f"{o}={c:.0f}({c / base[o]:.3f})" for o, c in costs.items())
        _say(f"{name}: {line}")

    def note(self, text: str) -> None:
        """Keep a remark."""
        self.report.notes.append(text)
        _say(text)
        self.save()

    def save(self) -> None:
        """Write the report."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._output.write_text(json.dumps(vars(self.report), indent=1))

    def take_hooks(self, name: str, enter: Callable[[], None] | None) -> None:
        """Measure what each of Rote's programs takes of each operation.

        The kernel's own statistics: they cost some instructions themselves.
        """
        switch = Path("/proc/sys/kernel/bpf_stats_enabled")
        switch.write_text("1")
        for operation in self.report.situations["nothing"]:
            before = _statistics()
            _, counts = run_operations(enter, only=operation)
            number = counts[operation]
            found = {}
            for hook, (spent, runs) in _statistics().items():
                spent0, runs0 = before.get(hook, (0, 0))
                if (runs - runs0) / number > 0.1:
                    found[hook] = [(runs - runs0) / number, (spent - spent0) / (runs - runs0)]
            self.report.hooks[f"{name} {operation}"] = {h: found[h] for h in sorted(found)}
            said = " ".join(f"{h}={n:.2f}x{i:.0f}" for h, (n, i) in sorted(found.items()))
            _say(f"hooks: {name} {operation}: {said}")
        switch.write_text("0")
        self.save()


def _statistics() -> dict[str, tuple[int, int]]:
    """Instructions and runs of each loaded BPF program, by name."""
    shown = subprocess.run(
        ["bpftool", "--json", "prog", "show"], capture_output=True, check=True, timeout=60
    )
    return {
        f"{program.get('name', '')}:{program['id']}": (
            program.get("run_time_ns", 0),
            program.get("run_cnt", 0),
        )
        for program in json.loads(shown.stdout)
    }


class Rote:
    """Rote's kernel side with one watched cgroup."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        run_dir = Path("/run/rote-bench")
        run_dir.mkdir(exist_ok=True)
        settings = KernelTestSettings(Path("/sys/fs/bpf/rote-bench"), run_dir, write_probe="auto")
        self.kernel = LiveKernel.open(settings)
        attachment = self.kernel.attachment
        bench.note(f"rote: {attachment.mode}, loaded in {attachment.load_seconds} s")
        for hook, reason in attachment.missing:
            bench.note(f"rote: missing {hook}: {reason[:100]}")
        self.knowledge = Knowledge(self.kernel)
        self.cgroup = cgroup_root() / "rote-bench"
        self.cgroup.mkdir(exist_ok=True)
        self.cgroup_id = self.cgroup.stat().st_ino
        self.model = _model()
        self.knowledge.load(self.model)

    def watch(self, *, mode: Mode = NOTHING_REFUSED) -> None:
        """Watch the cgroup, under prevention or not."""
        self.kernel.watch(
            self.cgroup_id, model=self.knowledge.number(self.model), flags=_FLAGS, mode=mode
        )

    def enter(self) -> None:
        """Move the calling process into the cgroup."""
        (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def take_inside(self, name: str) -> None:
        """Measure inside, and make sure that everything there was known."""
        if not self.bench.wants(name):
            return
        before = self.kernel.counters()[self.cgroup_id]
        self.bench.take(name, self.enter)
        after = self.kernel.counters()[self.cgroup_id]
        if after.events != before.events or after.refused != before.refused or any(after.errors):
            events = [
                (event.operation.name, event.program, event.path, event.action)
                for event in self.kernel.read_events(20)
            ]
            raise SystemExit(f"{name}: not everything was known: {after} {events}")
        if after.known == before.known:
            raise SystemExit(f"{name}: nothing was judged: {after}")

    def add_keys(self, number: int, first: int) -> None:
        """Fill the model up with write keys of other paths, in folders of a hundred."""
        kernel = self.kernel
        edges, writes = kernel._maps["short_edges"], kernel._maps["write_keys"]
        root = self.knowledge.number(self.model) + 0x40000000
        folder = 0x20000000
        names, values, keys = bytearray(), bytearray(), bytearray()
        other = self.knowledge.program_number(Program("/srv/other/program"))
        for i in range(first, first + number):
            parent = folder + i // 100
            if i % 100 == 0:
                names += struct.pack("=II24s", root, 0, b"folder-%d" % (i // 100))
                values += struct.pack("=II", parent, 0)
            names += struct.pack("=II24s", parent, 0, b"file-%d" % i)
            values += struct.pack("=II", 0x10000000 + i, 0)
            keys += struct.pack("=II", 0x10000000 + i, other)
        _update_batch(edges.fd, bytes(names), bytes(values), len(values) // 8)
        _update_batch(writes.fd, bytes(keys), struct.pack("=I", 1) * number, number)

    def close(self) -> None:
        """Take everything away."""
        self.kernel.close()
        LiveKernel.unload(Path("/sys/fs/bpf/rote-bench"))


def _update_batch(fd: int, keys: bytes, values: bytes, number: int) -> None:
    """BPF_MAP_UPDATE_BATCH, since 5.6: a hundred thousand calls would take an emulator minutes."""
    import ctypes

    from sensor.kernel import bpf

    attr = ctypes.create_string_buffer(bpf.ATTR_SIZE)
    key = ctypes.create_string_buffer(keys, len(keys))
    value = ctypes.create_string_buffer(values, len(values))
    struct.pack_into(
        "=QQQQIIQQ", attr, 0, 0, 0, ctypes.addressof(key), ctypes.addressof(value), number, fd, 0, 0
    )
    bpf.call(_MAP_UPDATE_BATCH, attr)


def _model() -> Model:
    """A model that knows everything that operations.c does, and no more."""
    model = Model("bench", 1, Image("bench"), "bench")
    operations = Program(str(_PROGRAMS / "operations"))
    service = (Origin.UNKNOWN, Actor.SERVICE)
    model.add(ExecKey(Program(""), operations, *service), Evidence(0, 0))
    for name in ("tiny-static", "tiny-dynamic"):
        model.add(ExecKey(operations, Program(str(_PROGRAMS / name)), *service), Evidence(0, 0))
    renamed = (OperationClass.WRITE, OperationClass.REMOVE, OperationClass.RENAME)
    classes = {
        "data": (OperationClass.WRITE,),
        "new": (OperationClass.WRITE, OperationClass.REMOVE),
        "a": renamed,
        "b": renamed[1:],
    }
    for place in (_TMPFS, _EXT4):
        for name, known in classes.items():
            for operation in known:
                model.add(WriteKey(operations, str(place / name), operation), Evidence(0, 0))
    return model


@contextmanager
def empty_programs(*options: str) -> Iterator[None]:
    """Programs that do nothing, on the hooks that Rote uses."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.empty", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("the empty programs do not load")
        yield
    finally:
        process.stdin.close()
        process.wait(60)


def measure_peers(bench: Bench) -> None:
    """The distribution's tools; they change the kernel for good, so they come last."""
    if bench.wants("fapolicyd"):
        forbidden = _PROGRAMS / "forbidden"
        shutil.copy(_PROGRAMS / "tiny-static", forbidden)
        with peers.fapolicyd(forbidden):
            bench.take("fapolicyd")
    if bench.wants("auditd"):
        with peers.auditd():
            bench.take("auditd")


def measure_apparmor(bench: Bench) -> None:
    """AppArmor, in a machine that booted with it: without a profile, and with one."""
    bench.take("AppArmor, no profile")
    with peers.apparmor(_PROGRAMS, _TMPFS, _EXT4):
        bench.take("AppArmor")


def measure_rote(bench: Bench) -> None:
    """All situations without and with Rote."""
    bench.take("nothing")
    bench.take("nothing, again")
    if bench.wants("empty programs"):
        with empty_programs():
            bench.take("empty programs")
        with empty_programs("--write"):
            bench.take("empty programs, each write")
    if not any(bench.wants(name) for name in _WITH_ROTE):
        return
    rote = Rote(bench)
    try:
        bench.take("loaded, nothing watched")
        rote.watch()
        bench.take("outside, one cgroup watched")
        rote.take_inside("inside, alert")
        rote.watch(mode=Mode.refusing())
        own = len(rote.model.keys)
        rote.take_inside("inside, prevent")
        if bench.wants("hooks"):
            bench.take_hooks("inside, prevent:", rote.enter)
        if bench.wants("keys"):
            rote.add_keys(1000 - own, 0)
            rote.take_inside("keys: 1000")
            rote.add_keys(99000, 1000)
            rote.take_inside("keys: 100000")
        if bench.wants("cgroups"):
            for i in range(99):
                cgroup = cgroup_root() / f"rote-bench-{i}"
                cgroup.mkdir(exist_ok=True)
                rote.kernel.watch(
                    cgroup.stat().st_ino,
                    model=rote.knowledge.number(rote.model),
                    flags=_FLAGS,
                    mode=Mode.refusing(),
                )
            rote.take_inside("cgroups: 100")
            bench.take("cgroups: 100, outside")
        if bench.wants("probe"):
            rote.kernel.set_write_probe(on=True)
            bench.take("probe: outside")
            rote.take_inside("probe: inside, prevent")
    finally:
        rote.close()


def main() -> None:
    """The command, inside the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("/job/results/cost.json"))
    parser.add_argument("--only", default="", help="beginnings of situations' names, by ;")
    arguments = parser.parse_args()
    prepare()
    bench = Bench(arguments.output, tuple(part for part in arguments.only.split(";") if part))
    if "apparmor" in Path("/sys/kernel/security/lsm").read_text().split(","):
        measure_apparmor(bench)
        return
    measure_rote(bench)
    measure_peers(bench)


if __name__ == "__main__":
    main()
