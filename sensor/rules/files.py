"""Rule files: read all of a directory, or nothing of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sensor.audits.audit import Action
from sensor.errors import RuleFileError
from sensor.events import Detection, OperationClass
from sensor.paths import Pattern
from sensor.rules.detection import FILESYSTEM, PROCESSES
from sensor.rules.rule import ALL_OPERATIONS, Lists, PathMatch, ProgramMatch, Rule
from sensor.rules.schema import (
    ContainerRuleModel,
    FilesystemModel,
    PathModel,
    ProcessesModel,
    ProgramModel,
    RuleFileModel,
    ScopeModel,
)
from sensor.rules.scope import Scope
from sensor.yamlfiles import explain_validation, list_yaml, read_yaml

RESERVED = ("default",)


@dataclass(frozen=True, slots=True)
class ImageRule:
    """A rule of kind vulnerability or compliance: it parses, and is judged by the image's scan."""

    kind: str
    name: str
    source: str
    content: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What a directory of rule files says."""

    rules: tuple[Rule, ...] = ()
    image_rules: tuple[ImageRule, ...] = ()
    files: tuple[Path, ...] = ()
    disabled: tuple[str, ...] = ()


def read_rules(path: Path) -> RuleSet:
    """Read a directory of rule files, or one file.

    Args:
        path: what is not there has no rules.

    Raises:
        YamlFileError: one is no YAML, or beyond a limit.
        RuleFileError: one does not say what rules say; one line with file, line and field.
    """
    rules: list[Rule] = []
    image_rules: list[ImageRule] = []
    disabled: list[str] = []
    seen: dict[str, str] = {}
    files = list_yaml(path)
    for file in files:
        document = read_yaml(file)
        try:
            model = RuleFileModel.model_validate(document.value)
        except ValidationError as error:
            raise RuleFileError(explain_validation(document, error, RuleFileModel)) from error
        for i, entry in enumerate(model.rules):
            source = f"{file}:{document.line_of(('rules', i))}"
            if entry.name in RESERVED:
                raise RuleFileError(
                    str(document.error(("rules", i, "name"), f"{entry.name!r} is built in"))
                )
            if entry.name in seen:
                text = f"{entry.name!r} is the name of another rule ({seen[entry.name]})"
                raise RuleFileError(str(document.error(("rules", i, "name"), text)))
            seen[entry.name] = source
            if not entry.enabled:
                disabled.append(entry.name)
            elif isinstance(entry, ContainerRuleModel):
                rules.append(rule_from(entry, source))
            else:
                content = entry.model_dump(mode="json")
                image_rules.append(ImageRule(entry.kind, entry.name, source, content))
    return RuleSet(tuple(rules), tuple(image_rules), tuple(files), tuple(disabled))


def rule_from(entry: ContainerRuleModel, source: str) -> Rule:
    """A rule as the loop uses it."""
    actions: dict[Detection, Action] = {}
    explicit: set[Detection] = set()
    sensors: tuple[tuple[tuple[Detection, ...], ProcessesModel | FilesystemModel], ...] = (
        (PROCESSES, entry.processes),
        (FILESYSTEM, entry.filesystem),
    )
    for detections, sensor in sensors:
        for detection in detections:
            given = getattr(sensor, detection.name.lower())
            actions[detection] = Action(given or sensor.default)
            if detection.name.lower() in sensor.model_fields_set:
                explicit.add(detection)
    session = entry.sessions.exec_session
    actions[Detection.EXEC_SESSION] = Action(session or "alert")
    if session is not None:
        explicit.add(Detection.EXEC_SESSION)
    return Rule(
        name=entry.name,
        scope=scope_from(entry.scope),
        actions=actions,
        explicit=frozenset(explicit),
        lists=Lists(
            allow_programs=tuple(map(_program, entry.processes.allow)),
            deny_programs=tuple(map(_program, entry.processes.deny)),
            allow_paths=tuple(map(_path, entry.filesystem.allow)),
            deny_paths=tuple(map(_path, entry.filesystem.deny)),
            session_programs=tuple(map(_program, entry.sessions.allow)),
        ),
        protected=entry.scope.protected,
        allow_on_error=None if entry.on_error is None else entry.on_error == "allow",
        quarantine=entry.block.how == "quarantine",
        grace_seconds=entry.block.grace,
        evidence_filesystem=entry.block.export_filesystem,
        message=entry.message,
        source=source,
    )


def scope_from(model: ScopeModel) -> Scope:
    """A scope as the loop uses it."""
    return Scope(
        images=tuple(model.images),
        containers=tuple(model.containers),
        labels=tuple((name, tuple(globs)) for name, globs in model.labels.items()),
        namespaces=tuple(model.namespaces),
        hosts=tuple(model.hosts),
        clusters=tuple(model.clusters),
    )


def _program(model: ProgramModel) -> ProgramMatch:
    path = Pattern.parse(model.path) if model.path else None
    return ProgramMatch(path, model.name, model.sha256, model.args, model.added)


def _path(model: PathModel) -> PathMatch:
    operations = OperationClass(0)
    for name in model.operations:
        operations |= OperationClass[name.upper()]
    return PathMatch(Pattern.parse(model.path), model.by, operations or ALL_OPERATIONS)


def describe(rule: Rule) -> dict[str, Any]:
    """A rule as plain values, for people and for evidence."""
    scope = rule.scope
    lists = rule.lists
    return {
        "name": rule.name,
        "kind": "container",
        "source": rule.source,
        "scope": {
            "images": list(scope.images),
            "containers": list(scope.containers),
            "labels": {name: list(globs) for name, globs in scope.labels},
            "namespaces": list(scope.namespaces),
            "hosts": list(scope.hosts),
            "clusters": list(scope.clusters),
            "protected": rule.protected,
        },
        "actions": {d.name.lower(): str(rule.action(d)) for d in Detection if d},
        "allow_programs": [match.text for match in lists.allow_programs],
        "deny_programs": [match.text for match in lists.deny_programs],
        "allow_paths": [match.text for match in lists.allow_paths],
        "deny_paths": [match.text for match in lists.deny_paths],
        "session_programs": [match.text for match in lists.session_programs],
        "block": "quarantine" if rule.quarantine else "stop",
        "message": rule.message,
    }
