"""What may stand in a rule file. ``rote rules schema`` prints it as JSON Schema."""

from __future__ import annotations

import datetime as dt
import re
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sensor.config import parse_duration
from sensor.errors import UsageError
from sensor.events import OperationClass
from sensor.paths import Pattern
from sensor.rules.checks import check_id

_SHA256 = re.compile(r"[0-9a-f]{64}")
OPERATIONS = tuple((o.name or "").lower() for o in OperationClass)
ActionName = Literal["ignore", "alert", "prevent", "block"]
Level = Literal["low", "medium", "high", "critical"]
Effect = Literal["ignore", "alert", "block"]  # of an image; nothing of it can be prevented


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return value


def _pattern(text: str) -> str:
    try:
        Pattern.parse(text, plain=True)
    except UsageError as error:
        raise ValueError(
            f"{error} (of a component, '*' stands for all of it, '**' at the end for all below)"
        ) from error
    return text


Globs = Annotated[
    list[str],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(description="Shell globs; '!' excludes"),
]
Duration = Annotated[
    float,
    BeforeValidator(_duration, json_schema_input_type=str | float),
    Field(description="90s, 15m, 1h30m", ge=0),
]


class ScopeModel(_Strict):
    """Which containers; everything given must match. Empty: all."""

    images: Globs = []
    containers: Globs = []
    labels: dict[str, Globs] = {}
    namespaces: Globs = []
    hosts: Globs = []
    clusters: Globs = []
    protected: bool = Field(default=False, description="Never block or quarantine these containers")


class ProgramModel(_Strict):
    """A program; everything given must match."""

    path: str = Field(
        default="", description="Absolute; '*' for a component, '**' at the end, <N>, <X>"
    )
    name: str = Field(default="", description="File name or applet, wherever it lies")
    sha256: str = Field(default="", description="Of the file's content")
    args: str = Field(default="", description="Shell glob over the arguments after the first")
    added: bool = Field(
        default=False, description="Also when it was written at run time (allow only)"
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return _pattern(value) if value else value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if "/" in value or len(value.encode()) > 255:
            raise ValueError("expected a file name without '/'; a place goes to 'path'")
        if any(char in value for char in "*?["):
            raise ValueError("expected a whole name: globs are for 'path' and 'args'")
        return value

    @field_validator("sha256")
    @classmethod
    def _sha256(cls, value: str) -> str:
        value = value.lower().removeprefix("sha256:")
        if value and not _SHA256.fullmatch(value):
            raise ValueError("expected 64 hexadecimal digits")
        return value

    @model_validator(mode="after")
    def _something(self) -> ProgramModel:
        if not (self.path or self.name or self.sha256):
            raise ValueError("expected 'path', 'name' or 'sha256'")
        return self


def _program(value: Any) -> Any:
    if isinstance(value, str):
        return {"path": value} if value.startswith("/") else {"name": value}
    return value


class PathModel(_Strict):
    """Changes of files."""

    path: str = Field(description="Absolute; '*' for a component, '**' at the end, <N>, <X>")
    by: str = Field(default="", description="Only by this program: its path, or PATH#APPLET")
    operations: list[Literal[OPERATIONS]] = Field(  # type: ignore[valid-type]
        [], description="Only these ways; empty: all"
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return _pattern(value)

    @field_validator("by")
    @classmethod
    def _by(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("expected the absolute path of a program")
        return value


def _path_entry(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Programs = list[
    Annotated[ProgramModel, BeforeValidator(_program, json_schema_input_type=str | ProgramModel)]
]
Paths = list[
    Annotated[PathModel, BeforeValidator(_path_entry, json_schema_input_type=str | PathModel)]
]


class ProcessesModel(_Strict):
    """What becomes of executions."""

    default: ActionName = Field(default="alert", description="For what is not named below")
    unknown_program: ActionName | None = None
    unknown_parent: ActionName | None = None
    startup_program: ActionName | None = None
    unknown_arguments: ActionName | None = None
    changed_program: ActionName | None = None
    memory_program: ActionName | None = None
    setuid_program: ActionName | None = None
    denied_program: ActionName = "prevent"
    allow: Programs = []
    deny: Programs = []


class FilesystemModel(_Strict):
    """What becomes of changes of files."""

    default: ActionName = Field(default="alert", description="For what is not named below")
    unknown_write: ActionName | None = None
    protected_write: ActionName | None = None
    denied_path: ActionName = "prevent"
    allow: Paths = []
    deny: Paths = []


class SessionsModel(_Strict):
    """docker exec, kubectl exec, nsenter."""

    exec_session: ActionName | None = Field(
        default=None, description="Coming in; holds while learning too"
    )
    allow: Programs = Field(default=[], description="What may come in")

    @field_validator("allow")
    @classmethod
    def _exact(cls, value: list[ProgramModel]) -> list[ProgramModel]:
        for entry in value:
            if not entry.path or not Pattern.parse(entry.path).is_exact:
                raise ValueError("expected whole paths of programs, without '*'")
        return value


class BlockModel(_Strict):
    """How a container is taken out of service."""

    how: Literal["stop", "quarantine"] = "stop"
    grace: Duration | None = Field(default=None, description="Between SIGTERM and SIGKILL")
    export_filesystem: bool = Field(
        default=False, description="Put the whole file system into the evidence"
    )


class ContainerRuleModel(_Strict):
    """What deviations of running containers lead to."""

    kind: Literal["container"] = "container"
    name: str = Field(min_length=1, max_length=80)
    enabled: bool = True
    scope: ScopeModel = ScopeModel()
    processes: ProcessesModel = ProcessesModel()
    filesystem: FilesystemModel = FilesystemModel()
    sessions: SessionsModel = SessionsModel()
    block: BlockModel = BlockModel()
    on_error: Literal["deny", "allow"] | None = Field(
        None, description="What cannot be judged, where something is refused"
    )
    message: str = Field(default="", description="Stands in every audit of the rule")


class _AdmissionModel(_Strict):
    """What rules about images have in common."""

    name: str = Field(min_length=1, max_length=80)
    enabled: bool = True
    scope: ScopeModel = ScopeModel()
    on_error: Literal["allow", "deny"] = Field(
        default="allow",
        description="A start that cannot be judged, or not in time, where a gate holds it",
    )
    time_limit: Duration = Field(
        default=10.0, gt=0, le=60, description="How long a start may be held for this"
    )
    message: str = Field(default="", description="For who started it, and in every audit")


class VulnerabilityExceptionModel(_Strict):
    """A vulnerability or package that does not count."""

    cve: str = Field(default="", description="Shell glob over the CVE, or the advisory's name")
    package: str = Field(default="", description="Shell glob over the package's name")
    reason: str = Field(min_length=1)
    expires: dt.date | None = Field(default=None, description="The last day on which it holds")
    effect: Effect = Field(
        default="ignore", description="ignore, at most alert, or block whatever else is said"
    )

    @model_validator(mode="after")
    def _something(self) -> VulnerabilityExceptionModel:
        if not (self.cve or self.package):
            raise ValueError("expected 'cve' or 'package'")
        return self


class LikelihoodModel(_Strict):
    """How likely a vulnerability must be to be exploited within 30 days (EPSS), from 0 to 1."""

    alert: float | None = Field(default=None, ge=0, le=1, description="From this on")
    block: float | None = Field(default=None, ge=0, le=1, description="From this on")


class VulnerabilityRuleModel(_AdmissionModel):
    """What vulnerabilities of an image lead to when a container starts."""

    kind: Literal["vulnerability"]
    alert: Level | None = Field(default="low", description="From this severity on")
    block: Level | None = Field(default=None, description="From this severity on")
    severity: Literal["cvss", "vendor", "highest"] = Field(
        default="cvss",
        description="By CVSS where there is a score, else the vendor's; the vendor's; the higher",
    )
    unrated: Level | None = Field(
        default="low", description="The severity of what nobody has rated; null: it never counts"
    )
    only_fixed: bool = Field(default=False, description="Only where there is a fixed version")
    grace_days: int = Field(
        default=0, ge=0, le=3650, description="So long after its beginning alert, do not block"
    )
    grace_from: Literal["fix", "published"] = Field(
        default="fix", description="Begins when the fix was announced, or the vulnerability"
    )
    known_exploited: Effect | None = Field(
        default=None,
        description="At least this for what is known to be exploited, without grace, fixed or not",
    )
    epss: LikelihoodModel = LikelihoodModel()
    package_in_use: bool = Field(default=False, description="Only packages whose programs run")
    ecosystems: Globs = []
    exceptions: list[VulnerabilityExceptionModel] = []

    @model_validator(mode="after")
    def _order(self) -> VulnerabilityRuleModel:
        for name, alert, block in (
            ("block", _rank(self.alert), _rank(self.block)),
            ("epss", self.epss.alert, self.epss.block),
        ):
            if alert is not None and block is not None and block < alert:
                raise ValueError(
                    f"{name}: blocks what it does not alert on; expected block >= alert"
                )
        return self


def _rank(level: Level | None) -> int | None:
    return None if level is None else typing.get_args(Level).index(level)


class ComplianceRuleModel(_AdmissionModel):
    """What failed compliance checks lead to when a container starts."""

    kind: Literal["compliance"]
    template: Literal["cis-docker", "nist-800-190", "pci-dss"] | None = Field(
        default=None, description="Which checks count, with what each leads to"
    )
    default: Effect | None = Field(
        default=None,
        description="For checks that nothing else is said of. By default those of critical and "
        "high severity alert and the others are ignored; with a template all others are ignored",
    )
    severity: dict[Level, Effect] = Field(
        default={}, description="By severity, of the template's checks or of all"
    )
    checks: dict[str, Effect] = Field(
        default={}, description="By id, as `rote compliance list` has them, or one's own"
    )

    @field_validator("checks")
    @classmethod
    def _known(cls, value: dict[str, Effect]) -> dict[str, Effect]:
        found: dict[str, Effect] = {}
        for name, effect in value.items():
            known = check_id(name)
            if known in found:
                raise ValueError(f"check {known} is named twice")
            found[known] = effect
        return found


class TrustedModel(_Strict):
    """Images that are trusted; one of what is given must match."""

    name: str = Field(default="", description="Of the group")
    images: Globs = Field(default=[], description="Shell globs over REGISTRY/REPOSITORY[:TAG]")
    digests: list[str] = Field(default=[], description="sha256:…, of the manifest or the image")
    base_layers: list[list[str]] = Field(
        default=[], description="Diff ids (sha256:…) that the image's layers begin with"
    )

    @field_validator("digests", "base_layers")
    @classmethod
    def _digests(cls, value: Any) -> Any:
        for entry in value:
            for digest in [entry] if isinstance(entry, str) else entry:
                if not _SHA256.fullmatch(digest.removeprefix("sha256:")):
                    raise ValueError(f"{digest!r}: expected sha256: and 64 hexadecimal digits")
        return value

    @model_validator(mode="after")
    def _something(self) -> TrustedModel:
        if not (self.images or self.digests or any(self.base_layers)):
            raise ValueError("expected 'images', 'digests' or 'base_layers'")
        return self


class TrustRuleModel(_AdmissionModel):
    """Which images are trusted, and what a container of another leads to."""

    kind: Literal["trust"]
    trusted: list[TrustedModel] = Field(min_length=1)
    untrusted: Effect = "alert"


def _kind(value: Any) -> Any:
    if isinstance(value, dict) and "kind" not in value:
        return {"kind": "container", **value}
    return value


AnyRule = Annotated[
    ContainerRuleModel | VulnerabilityRuleModel | ComplianceRuleModel | TrustRuleModel,
    Field(discriminator="kind"),
]


class RuleFileModel(_Strict):
    """A rule file: rules in order. Files are read in the order of their names."""

    version: Literal[1]
    rules: list[Annotated[AnyRule, BeforeValidator(_kind)]] = []


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a rule file."""
    schema = RuleFileModel.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Rote rule file",
    }
