"""Prevention: telling the kernel which containers to refuse for, and what that needs beforehand.

A container is put under prevention only when everything that it may do is in the kernel: its
model, and the program of each of its running processes. What it opened for writing before that is
looked for, and judged at each write for as long as it stays open.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sensor.events import Event, OperationClass
from sensor.kernel.decode import applet_of
from sensor.kernel.port import NOTHING_REFUSED, ContainerFlag, Kernel, Mode, Process
from sensor.models.keys import Program
from sensor.models.model import Model, ModelState
from sensor.responses.knowledge import Knowledge
from sensor.rules.policy import Policy
from sensor.rules.rule import EMPTY, Rule

_log = logging.getLogger("rote.prevent")
_DELETED = " (deleted)"
_MEMORY = ("/memfd:", "/SYSV", "/dev/zero")  # as /proc names memory that has no file


@dataclass(frozen=True, slots=True)
class Leftover:
    """A way to write that was opened before prevention began and that the model does not know."""

    pid: int
    program: Program
    path: str
    mapped: bool = False  # a shared writable mapping: it cannot be refused any more


class Prevention:
    """Which containers the kernel refuses for.

    Args:
        kernel: who refuses.
        knowledge: what is known to it.
        policy: what a person asked for.
        write_probe: "auto", "always" or "never": when writes are judged one by one.
    """

    def __init__(
        self, kernel: Kernel, knowledge: Knowledge, policy: Policy, write_probe: str = "auto"
    ) -> None:
        self.policy = policy
        self._kernel = kernel
        self._knowledge = knowledge
        self._write_probe = write_probe
        self._probe_on: bool | None = None
        self._leftovers: dict[int, tuple[Leftover, ...]] = {}  # container's cgroup → what it holds

    def mode(self, model: Model, rule: Rule) -> tuple[ContainerFlag, Mode]:
        """What the kernel is to do about novelties of a container.

        Until its model is active only what a rule denies by name is refused, and then nothing
        that merely could not be judged.
        """
        state = model.standing
        active = state in (ModelState.ACTIVE, ModelState.SUSPECT)
        listed = rule.lists != EMPTY or model.trust.capabilities
        flags = ContainerFlag.RULES if listed else ContainerFlag(0)
        if state is ModelState.ARCHIVED:
            return flags, NOTHING_REFUSED
        mode = Mode(rule.refused(active=active), rule.ignored(active=active))
        if mode.prevent and (not active or self.policy.allows_on_error(rule)):
            flags |= ContainerFlag.ERROR_ALLOW
        return flags, mode

    def settle(self, cgroup_id: int) -> int:
        """Let the kernel know which programs a container's processes run.

        Returns:
            How many processes run programs that no model knows: all they change is refused.
        """
        strangers = 0
        for process in self._kernel.processes():
            if process.cgroup_id != cgroup_id or process.program:
                continue
            program = program_of(process.pid)
            if program is None or not self._knowledge.settle_process(process.exec_id, program):
                strangers += 1
        return strangers

    def look_for_leftovers(self, cgroup_id: int, model: Model) -> tuple[Leftover, ...]:
        """What a container's processes opened for writing earlier and should not have.

        Returns:
            Those that were not known from an earlier look.
        """
        found: list[Leftover] = []
        for process in self._kernel.processes():
            if process.cgroup_id == cgroup_id:
                found.extend(_leftovers(process, model))
        before = self._leftovers.get(cgroup_id, ())
        if any(not leftover.mapped for leftover in found) or before:
            self._leftovers[cgroup_id] = tuple(found)
        return tuple(leftover for leftover in found if leftover not in before)

    def forget(self, cgroup_id: int) -> None:
        """A container is gone, or is no longer under prevention."""
        self._leftovers.pop(cgroup_id, None)

    def look_again(self, models: Callable[[int], Model | None], *, complete: bool) -> None:
        """Look again at containers that still held something; detach the probe when none does.

        Args:
            models: the model of a container under prevention by its cgroup, or None.
            complete: all containers of the host are known by now.
        """
        for cgroup_id in list(self._leftovers):
            model = models(cgroup_id)
            if model is not None:
                self.look_for_leftovers(cgroup_id, model)
            if model is None or not self._leftovers[cgroup_id]:
                del self._leftovers[cgroup_id]
        self.set_probe(may_detach=complete)

    def set_probe(self, *, may_detach: bool) -> None:
        """Attach the per-write probe while it is needed, else let the host's writes be free.

        Args:
            may_detach: False while a container may yet turn up that needs it.
        """
        if self._write_probe == "auto":
            # Where nothing can be denied, writes are seen at the end of their system call anyway.
            on = bool(self._leftovers) or self._kernel.attachment.guarantee_files != "deny"
        else:
            on = self._write_probe == "always"
        if on != self._probe_on and (on or may_detach):
            self._kernel.set_write_probe(on=on)
            if self._probe_on is not None:
                _log.info("the probe on every write is %s", "attached" if on else "detached")
            self._probe_on = on

    @property
    def probe_on(self) -> bool:
        """Whether each write is judged now."""
        return bool(self._probe_on)

    @property
    def holding(self) -> int:
        """How many containers hold descriptors that are judged at each write."""
        return len(self._leftovers)

    def kill_late(self, event: Event) -> bool:
        """Kill the process behind an event that the kernel could not refuse by itself.

        That is what was known by name only (tracepoints), and what happened before the kernel
        knew whose it was.
        """
        if not self._kernel.kill(event.pid, event.exec_id):
            return False
        event.action = "killed"
        return True


def program_of(pid: int) -> Program | None:
    """The program a process runs, as keys name it; None when it has ended or has none."""
    try:
        path = str(Path(f"/proc/{pid}/exe").readlink())
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    argv = tuple(os.fsdecode(part) for part in line.removesuffix(b"\0").split(b"\0"))
    return Program(path, applet_of(path, argv))


def _leftovers(process: Process, model: Model) -> Iterator[Leftover]:
    program = program_of(process.pid)
    if program is None:
        return
    for path in _written_descriptors(process.pid):
        if not model.writes(program, path, int(OperationClass.WRITE)):
            yield Leftover(process.pid, program, path)
    for path in _written_mappings(process.pid):
        if not model.writes(program, path, int(OperationClass.WRITE)):
            yield Leftover(process.pid, program, path, mapped=True)


def _written_descriptors(pid: int) -> Iterable[str]:
    """Regular files that a process has open for writing. Source: proc_pid_fdinfo(5)."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            text = Path(f"/proc/{pid}/fdinfo/{descriptor.name}").read_text(encoding="ascii")
            flags = int(text.partition("flags:")[2].split()[0], 8)
            if flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
                continue
            target = str(descriptor.readlink())
            if target.startswith("/") and not target.startswith(_MEMORY) and descriptor.is_file():
                yield target.removesuffix(_DELETED)
        except (OSError, ValueError, IndexError):
            continue  # closed meanwhile


def _written_mappings(pid: int) -> Iterable[str]:
    """Files that a process has mapped shared and writable. Source: proc_pid_maps(5)."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[1][1:2] == b"w" and fields[1][3:4] == b"s":
            path = os.fsdecode(fields[5])
            if path.startswith("/") and not path.startswith(_MEMORY):
                yield path.removesuffix(_DELETED)
