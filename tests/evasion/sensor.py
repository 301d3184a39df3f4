"""The sensor as the suite runs it, and the boxes under it: learned once, then attacked."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

from sensor.audits.audit import Audit
from sensor.audits.query import AuditQuery
from sensor.audits.store import AuditStore
from sensor.channels.channel import Channels
from sensor.containers.container import Container, Image
from sensor.containers.registry import ContainerChange
from sensor.kernel.live import LiveKernel
from sensor.models.learning import LearningSettings
from sensor.models.model import Model
from sensor.models.registry import ModelRegistry
from sensor.models.store import ModelStore
from sensor.pipeline import Pipeline
from sensor.rules.policy import Policy
from tests.evasion.box import Box, make_image, program
from tests.evasion.cases import PLACES, Attack, Plant, attacks, deeds

_REFUSED = ("denied", "killed")
_FOREVER = 10.0**9
_TEXT = "before\n" * 20


@dataclass
class Result:
    """What became of one attack."""

    attack: Attack
    worked_without: bool = False  # without prevention
    worked: bool = False
    outcomes: list[str] = field(default_factory=list)
    seen: int = 0  # deviations that were recorded
    audits: int = 0  # of these: refusals; those that were only counted as well

    @property
    def verdict(self) -> str:
        """For the table."""
        if not self.worked_without:
            return "impossible"
        if self.worked:
            return "detected" if self.seen else "missed"
        return "killed" if any(outcome == "s9" for outcome in self.outcomes) else "refused"


class Sensor:
    """A pipeline on the live kernel, with boxes.

    Args:
        kernel: loaded, nothing else in it.
        directory: for stores, the image, and the boxes' layers.
        privileged: whether boxes have all capabilities.
    """

    def __init__(self, kernel: LiveKernel, directory: Path, *, privileged: bool) -> None:
        self.kernel = kernel
        self.directory = directory
        self.privileged = privileged
        self.models = ModelRegistry(
            ModelStore(directory / "models.db"), LearningSettings(_FOREVER, _FOREVER)
        )
        self.audits = AuditStore(directory / "audits.db")
        self.pipeline = Pipeline(
            kernel,
            self.models,
            self.audits,
            Channels([]),
            policy=Policy(prevent=("guarded",)),
        )
        self.image = make_image(directory / "image")
        self._plant_in_image()
        self.boxes: dict[str, Box] = {}
        self.containers: dict[str, Container] = {}

    def _plant_in_image(self) -> None:
        for attack in attacks(privileged=True):
            for plant in attack.plants:
                if plant.path.startswith(PLACES["image"] + "/"):
                    put(self.image, plant, self.image)
        (self.image / "app/data").mkdir(parents=True)
        # So that every box has them in its upper layer's place.
        (self.image / "added").mkdir(exist_ok=True)

    def drain(self) -> None:
        """Take in what waits."""
        while self.pipeline.drain():
            pass

    def start(self, name: str, *, image: str = "evasion") -> Box:
        """Start a box, as a runtime would announce it."""
        box = Box(self.directory, self.image, name, self.drain, all_capabilities=self.privileged)
        created = Container(
            id=box.id,
            runtime="runc",
            name=name,
            image=Image(image, "1", "", f"sha256:{image}"),
            entrypoint=("/usr/sbin/service",),
        )
        box.prepare()
        self.boxes[name] = box
        self.pipeline.on_container(ContainerChange("created", 0, created))
        box.start()
        cgroup_id = box.cgroup.stat().st_ino
        container = Container(
            id=created.id,
            runtime=created.runtime,
            name=name,
            image=created.image,
            entrypoint=created.entrypoint,
            cgroup_path=f"/rote-evasion/{box.id}",
            cgroup_id=cgroup_id,
            pid=box.pid,
        )
        self.containers[name] = container
        self.pipeline.on_container(ContainerChange("added", cgroup_id, container))
        self.drain()
        return box

    def stop(self, name: str) -> None:
        """End a box."""
        box = self.boxes.pop(name, None)
        if box is None:
            return
        box.remove()
        self.drain()
        container = self.containers.pop(name, None)
        if container is not None:
            self.pipeline.on_container(ContainerChange("removed", container.cgroup_id, container))
        shutil.rmtree(box.directory, ignore_errors=True)

    def model_of(self, name: str) -> Model:
        """The model of a running box."""
        model = self.models.model_of(self.containers[name].id)
        assert model is not None
        return model

    def activate(self, name: str) -> None:
        """End learning, as `rote models activate` does."""
        model = self.model_of(name)
        self.models.activate(model)
        self.pipeline.reload_model(model)

    def learn(self, name: str) -> None:
        """Let a box do everything that it may do, twice."""
        for _ in range(2):
            for deed in deeds():
                for plant in deed.plants:
                    plant_in(self.boxes[name], plant)
                answer = self.boxes[name].command(deed.technique, *deed.args)
                assert answer.outcomes == ["e0"], f"{deed.name}: {answer}"
                assert deed.says in "\n".join(answer.said), f"{deed.name}: {answer}"

    def refusals(self, name: str) -> int:
        """How many refusals of a box were recorded or, when too many came at once, counted."""
        told = sum(audit.count for audit in self.recorded(name) if audit.outcome in _REFUSED)
        counters = self.kernel.counters()[self.containers[name].cgroup_id]
        return told + counters.suppressed

    def deviations(self, name: str) -> int:
        """How many deviations of a box were recorded or counted, refused or not."""
        counters = self.kernel.counters()[self.containers[name].cgroup_id]
        return sum(audit.count for audit in self.recorded(name)) + counters.suppressed

    def recorded(self, name: str) -> list[Audit]:
        """The audits of a box."""
        container = self.containers[name]
        found = self.audits.query(AuditQuery(limit=100000))
        return [audit for audit in found if audit.container_id == container.id]

    def close(self) -> None:
        """End all boxes."""
        for name in list(self.boxes):
            self.stop(name)


def plant_in(box: Box, plant: Plant) -> None:
    """Put something into a running box, from outside."""
    put(box.root, plant, box.root)


def put(root: Path, plant: Plant, image: Path) -> None:
    """Put something below a root; what lies there already goes."""
    path = root / plant.path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if plant.kind == "directory":
        path.mkdir(exist_ok=True)
        return
    path.unlink(missing_ok=True)
    if plant.kind == "symlink":
        path.symlink_to(plant.source)
    elif plant.kind == "hardlink":
        os.link(image / plant.source.lstrip("/"), path)
    elif plant.kind == "program":
        shutil.copy(program(plant.source), path)
        path.chmod(0o755)
    elif plant.kind == "script":
        path.write_text(plant.source)
        path.chmod(0o755)
    else:
        path.write_text(plant.source or _TEXT)
        path.chmod(0o666)


def state(box: Box, paths: tuple[str, ...]) -> list[tuple[object, ...]]:
    """Everything about these paths that an attack could have changed."""
    return [_state(box, path) for path in paths]


def _state(box: Box, path: str) -> tuple[object, ...]:
    place = box.root / path.lstrip("/")
    try:
        found = place.lstat()
    except FileNotFoundError:
        return ("absent",)
    content: object = None
    if stat.S_ISREG(found.st_mode):
        content = hashlib.sha256(place.read_bytes()).hexdigest()
    elif stat.S_ISDIR(found.st_mode):
        content = sorted(entry.name for entry in place.iterdir())
    attributes = () if stat.S_ISLNK(found.st_mode) else _attributes(place)
    mounts = [
        line.split()[5]
        for line in Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines()
        if line.split()[4] == path
    ]
    return (
        found.st_mode,
        found.st_uid,
        found.st_nlink if not stat.S_ISDIR(found.st_mode) else 0,
        found.st_size if stat.S_ISREG(found.st_mode) else 0,
        found.st_dev,
        content,
        attributes,
        mounts,
    )


def _attributes(place: Path) -> tuple[object, ...]:
    try:
        names = os.listxattr(place)
    except OSError:
        names = []
    flags = b""
    if place.is_file():
        import fcntl

        with place.open("rb") as file:
            try:
                flags = fcntl.ioctl(file, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS
            except OSError:
                flags = b""
    return (sorted(names), flags)
