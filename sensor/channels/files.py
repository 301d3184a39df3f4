"""Channel files: what may stand in them, and how they are read, all or nothing."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sensor.audits import formats
from sensor.audits.audit import Audit, AuditType, Severity
from sensor.channels.secrets import AnyAddress, HttpAddress, Secret, shown
from sensor.channels.template import check_template
from sensor.config import parse_duration
from sensor.errors import SecretError, UsageError, YamlFileError
from sensor.yamlfiles import explain_validation, list_yaml, nearest, read_yaml

CHANNELS_DIR = Path("/etc/rote/channels.d")
# The channels that are always there.
RESERVED = ("terminal", "journal")
GATHER_SECONDS = {"immediate": 0, "second": 1, "minute": 60, "hour": 3600, "day": 86400}
# Looked up by name, so that a format is there as soon as sensor.audits.formats has it.
_SHAPES = {"rote": "to_json", "ocsf": "to_ocsf", "ecs": "to_ecs", "falco": "to_falco"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET_HEADER = re.compile(r"auth|token|key|secret|cookie|password|credential", re.IGNORECASE)
_MAIL = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+")

Shape = Callable[[Audit], dict[str, Any]]


def shapes() -> dict[str, Shape]:
    """The formats there are, by name."""
    return {
        name: getattr(formats, function)
        for name, function in _SHAPES.items()
        if hasattr(formats, function)
    }


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return value


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(json_schema_extra={"type": "string", "examples": ["10s", "15m", "24h"]}),
]
Format = Literal["rote", "ocsf", "ecs", "falco"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Channel(_Model):
    """What every channel has: a name, what goes there, and when."""

    name: str = Field(description="Unique among all files; for commands and logs.")
    enabled: bool = True
    severity: Literal["info", "low", "medium", "high", "critical"] = Field(
        "info", description="At least this."
    )
    rules: tuple[str, ...] = Field((), description="Globs over the name of the rule; none: all.")
    types: tuple[str, ...] = Field((), description="Globs over the type of the audit; none: all.")
    containers: tuple[str, ...] = Field(
        (), description="Globs over the name or id of the container; none: all."
    )
    images: tuple[str, ...] = Field((), description="Globs over the image; none: all.")
    gather: Literal["immediate", "second", "minute", "hour", "day"] = Field(
        "immediate",
        description="Each at once, or the first at once and what follows within the period in one "
        "message.",
    )
    timeout: Duration = Field(10.0, description="For one attempt to deliver; from 1s to 60s.")
    give_up_after: Duration = Field(
        86400.0,
        description="A message that could not be delivered for so long is dropped, counted and "
        "logged.",
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("expected letters, digits, '.', '_' and '-', at most 63 of them")
        if value in RESERVED:
            raise ValueError(f"{value!r} is always there; expected another name")
        return value

    @field_validator("types")
    @classmethod
    def _check_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [str(kind) for kind in AuditType]
        for glob in value:
            if not fnmatch.filter(known, glob):
                raise ValueError(f"{glob!r} matches no type of audit{nearest(glob, known)}")
        return value

    @field_validator("timeout")
    @classmethod
    def _check_timeout(cls, value: float) -> float:
        if not 1 <= value <= 60:
            raise ValueError(f"{value:g} seconds, expected from 1s to 60s")
        return value

    @field_validator("give_up_after")
    @classmethod
    def _check_age(cls, value: float) -> float:
        if not 60 <= value <= 30 * 86400:
            raise ValueError(f"{value:g} seconds, expected from 1m to 30d")
        return value

    @property
    def period(self) -> int:
        """Seconds of gathering; 0: immediate."""
        return GATHER_SECONDS[self.gather]

    def wants(self, audit: Audit) -> bool:
        """Whether an audit goes to this channel."""
        return (
            audit.severity >= Severity[self.severity.upper()]
            and _any(self.rules, audit.rule)
            and _any(self.types, str(audit.type))
            and _any(self.images, audit.image)
            and (
                _any(self.containers, audit.container_name)
                or _any(self.containers, audit.container_id)
            )
        )

    def secrets(self) -> list[Secret]:
        """Every secret that the channel names."""
        found = [value for _, value in self if isinstance(value, Secret)]
        for _, value in self:
            inner = value.values() if isinstance(value, dict) else ()
            found += [part for part in inner if isinstance(part, Secret)]
            if isinstance(value, Hmac):
                found.append(value.secret)
        return found

    def target(self) -> str:
        """Where it leads, without what may be secret."""
        return shown(self.url) if hasattr(self, "url") else ""


def _any(globs: tuple[str, ...], text: str) -> bool:
    return not globs or any(fnmatch.fnmatchcase(text, glob) for glob in globs)


class Email(_Channel):
    """E-mail by SMTP."""

    type: Literal["email"]
    host: str
    port: int | None = Field(None, ge=1, le=65535, description="587, with tls 465, with none 25.")
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = None
    username: str | None = None
    password: Secret | None = None
    sender: str = Field(alias="from")
    to: tuple[str, ...] = Field(min_length=1)

    @field_validator("sender")
    @classmethod
    def _check_sender(cls, value: str) -> str:
        return _mail_address(value)

    @field_validator("to")
    @classmethod
    def _check_to(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_mail_address(one) for one in value)

    @model_validator(mode="after")
    def _check_login(self) -> Email:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password: expected both or none")
        if self.password and self.tls == "none" and self.host not in _LOCAL:
            raise ValueError("tls: none would show the password to the network; expected starttls")
        return self

    def target(self) -> str:
        """See ``_Channel.target``."""
        return f"{self.host} → {', '.join(self.to)}"


_LOCAL = ("localhost", "127.0.0.1", "::1")


def _mail_address(text: str) -> str:
    if not _MAIL.fullmatch(text) or not text.isascii():
        raise ValueError("expected an address like alerts@example.org")
    return text


class _Http(_Channel):
    url: HttpAddress
    ca_file: Path | None = None


class Slack(_Http):
    """A webhook that takes what Slack's take: Slack, Mattermost, Rocket.Chat and others."""

    type: Literal["slack"]
    channel: str | None = None
    username: str | None = None


class Hmac(_Model):
    """A signature over time and body."""

    secret: Secret
    header: str = "X-Rote-Signature"


class Webhook(_Http):
    """JSON to any address."""

    type: Literal["webhook"]
    method: Literal["POST", "PUT"] = "POST"
    format: Format = "rote"
    template: Any = Field(
        None, description="The body; {{macros}} in its texts are filled in. Excludes format."
    )
    headers: dict[str, str | Secret] = {}
    hmac: Hmac | None = None

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        return _known_format(value)

    @field_validator("template")
    @classmethod
    def _check_template(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"not JSON: {error}; expected JSON, or plain YAML") from error
        check_template(value)
        return value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, value: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for name, content in value.items():
            if not _HEADER.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header")
            if isinstance(content, str) and _SECRET_HEADER.search(name):
                raise ValueError(
                    f"{name}: a secret does not belong into this file; expected "
                    "{file: /PATH} or {env: NAME}"
                )
            if isinstance(content, str) and not content.isprintable():
                raise ValueError(f"{name}: expected one line")
        return value


class Syslog(_Channel):
    """Syslog, RFC 5424."""

    type: Literal["syslog"]
    transport: Literal["udp", "tcp", "tls", "unix"] = "udp"
    host: str | None = None
    port: int | None = Field(None, ge=1, le=65535, description="514, with tls 6514.")
    path: Path | None = Field(None, description="Of the socket, with transport unix.")
    ca_file: Path | None = None
    facility: Literal[
        "user", "daemon", "auth", "authpriv", "local0", "local1", "local2", "local3", "local4",
        "local5", "local6", "local7",
    ] = "authpriv"  # fmt: skip
    format: Literal["text", "rote", "ocsf", "ecs", "falco"] = "text"

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        return value if value == "text" else _known_format(value)

    @model_validator(mode="after")
    def _check_address(self) -> Syslog:
        if self.transport == "unix":
            if self.path is None or self.host is not None or self.port is not None:
                raise ValueError("transport unix: expected path, and neither host nor port")
        elif self.host is None or self.path is not None:
            raise ValueError(f"transport {self.transport}: expected host, and no path")
        return self

    def target(self) -> str:
        """See ``_Channel.target``."""
        if self.transport == "unix":
            return f"unix:{self.path}"
        return f"{self.transport}://{self.host}:{self.port or default_port(self)}"


def default_port(channel: Syslog) -> int:
    """Where syslog listens."""
    return 6514 if channel.transport == "tls" else 514


def _known_format(value: str) -> str:
    if value not in shapes():
        raise ValueError(f"{value!r}, expected one of {', '.join(shapes())}")
    return value


class Journald(_Channel):
    """systemd's journal, through the queue; apart from the one that is always there."""

    type: Literal["journald"]
    socket: Path = Path("/run/systemd/journal/socket")

    def target(self) -> str:
        """See ``_Channel.target``."""
        return str(self.socket)


class Alertmanager(_Http):
    """Prometheus Alertmanager."""

    type: Literal["alertmanager"]
    token: Secret | None = None
    username: str | None = None
    password: Secret | None = None
    labels: dict[str, str] = {}

    @model_validator(mode="after")
    def _check_login(self) -> Alertmanager:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password: expected both or none")
        if self.token and self.password:
            raise ValueError("expected token, or username and password")
        return self

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
                raise ValueError(f"{name!r} is no name of a label; expected [a-zA-Z_][a-zA-Z0-9_]*")
        return value


class PagerDuty(_Http):
    """PagerDuty, Events API v2."""

    type: Literal["pagerduty"]
    url: HttpAddress = Field("https://events.pagerduty.com/v2/enqueue", validate_default=True)
    routing_key: Secret


class Apprise(_Channel):
    """Any of apprise's services; needs the extra ``apprise``."""

    type: Literal["apprise"]
    url: AnyAddress

    def target(self) -> str:
        """See ``_Channel.target``; only the scheme: with some services the host is a secret."""
        if isinstance(self.url, Secret):
            return shown(self.url)
        return str(self.url.read()).partition("://")[0] + "://…"


ChannelConfig = Email | Slack | Webhook | Syslog | Journald | Alertmanager | PagerDuty | Apprise


class ChannelFile(_Model):
    """A file of channels."""

    version: Literal[1]
    channels: tuple[Annotated[ChannelConfig, Field(discriminator="type")], ...]


def read_channels(path: Path) -> list[ChannelConfig]:
    """Every channel of a directory of files, or of one file.

    Args:
        path: what is not there has no channels.

    Raises:
        YamlFileError: the first thing that is wrong, in one line.
    """
    found: list[ChannelConfig] = []
    places: dict[str, str] = {}
    for file in list_yaml(path):
        document = read_yaml(file)
        if document.value is None:
            continue  # empty, or nothing but comments
        try:
            read = ChannelFile.model_validate(document.value)
        except ValidationError as error:
            raise YamlFileError(explain_validation(document, error, ChannelFile)) from None
        for i, channel in enumerate(read.channels):
            loc = ("channels", i, "name")
            if channel.name in places:
                raise document.error(
                    loc, f"{channel.name!r} is the name of another, at {places[channel.name]}"
                )
            places[channel.name] = f"{file}:{document.line_of(loc)}"
            found.append(channel)
    return found


def missing_secrets(channel: ChannelConfig) -> list[str]:
    """What is wrong with the secrets of a channel, a line each."""
    wrong = []
    for secret in channel.secrets():
        try:
            secret.read()
        except SecretError as error:
            wrong.append(f"channel {channel.name}: {error}")
    return wrong


def schema() -> dict[str, Any]:
    """The JSON Schema of a channel file."""
    made = ChannelFile.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "A file of Rote's channels",
    }


def schema_text() -> str:
    """The same as docs/channels.schema.json has it."""
    return orjson.dumps(schema(), option=orjson.OPT_INDENT_2).decode() + "\n"
