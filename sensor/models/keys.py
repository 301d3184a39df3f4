"""The things a model knows: execution keys and write keys."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.events import Actor, Event, Operation, OperationClass, Origin

OPERATION_CLASS: dict[Operation, OperationClass] = {
    Operation.OPEN_WRITE: OperationClass.WRITE,
    Operation.CREATE: OperationClass.WRITE,
    Operation.TRUNCATE: OperationClass.WRITE,
    Operation.WRITE: OperationClass.WRITE,
    Operation.MAP_WRITE: OperationClass.WRITE,
    Operation.UNLINK: OperationClass.REMOVE,
    Operation.RMDIR: OperationClass.REMOVE,
    Operation.RENAME: OperationClass.REMOVE,  # the old name; the new one is RENAME
    Operation.LINK: OperationClass.LINK,
    Operation.SYMLINK: OperationClass.LINK,
    Operation.MKDIR: OperationClass.MKDIR,
    Operation.MKNOD: OperationClass.MKNOD,
    Operation.CHMOD: OperationClass.ATTRIBUTES,
    Operation.CHOWN: OperationClass.ATTRIBUTES,
    Operation.SETXATTR: OperationClass.ATTRIBUTES,
    Operation.REMOVEXATTR: OperationClass.ATTRIBUTES,
    Operation.MOUNT: OperationClass.MOUNT,
    Operation.UNMOUNT: OperationClass.MOUNT,
    Operation.PIVOT_ROOT: OperationClass.MOUNT,
    Operation.TRACE: OperationClass.TRACE,
    Operation.LOAD_CODE: OperationClass.LOAD_CODE,
    Operation.RECEIVE: OperationClass.WRITE,
}


ANY_ARGUMENTS = "*"


@dataclass(frozen=True, slots=True, order=True)
class Program:
    """A program as keys name it: a path in the image, and the applet of a multi-call binary."""

    path: str
    applet: str = ""

    def __str__(self) -> str:
        return f"{self.path}#{self.applet}" if self.applet else self.path


@dataclass(frozen=True, slots=True, order=True)
class ExecKey:
    """``parent`` executed ``program``, whose content came from ``origin``, as ``actor``."""

    parent: Program
    program: Program
    origin: Origin
    actor: Actor
    script: bool = False  # program is a script; its interpreter has a key of its own
    shape: str = ANY_ARGUMENTS  # of an interpreter: how it is called (sensor.models.arguments)


@dataclass(frozen=True, slots=True, order=True)
class WriteKey:
    """``program`` changes what ``pattern`` matches, in the way of ``operation``.

    ``pattern`` is in the text form of ``sensor.paths.Pattern``.
    """

    program: Program
    pattern: str
    operation: OperationClass


Key = ExecKey | WriteKey


def written_paths(event: Event) -> tuple[tuple[str, OperationClass], ...]:
    """The paths a FILE event changes, each with its kind of change: two for a rename or link."""
    if event.operation is Operation.RENAME:
        return (
            (event.path, OperationClass.REMOVE),
            (event.path2, OperationClass.RENAME),
        )
    if event.operation is Operation.LINK:
        # Through the new name the old object can be changed, so both count.
        return ((event.path, OperationClass.LINK), (event.path2, OperationClass.LINK))
    return ((event.path, OPERATION_CLASS[event.operation]),)
