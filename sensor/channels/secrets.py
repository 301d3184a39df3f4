"""Secrets of channels: named in the files, read when they are used, never shown.

They are read anew for every message, so that a changed one holds at once and none lies in memory
longer than it is needed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sensor.errors import SecretError

_BYTES_MAX = 64 << 10


class Secret(BaseModel):
    """Where a secret is: a file, or a variable of the daemon's environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path | None = Field(
        default=None, description="A file that holds the secret and nothing else."
    )
    env: str | None = Field(default=None, description="A variable of the daemon's environment.")

    @model_validator(mode="before")
    @classmethod
    def _is_no_secret(cls, value: Any) -> Any:
        if not isinstance(value, (dict, Secret)):
            raise ValueError(  # noqa: TRY004 - pydantic's own kind
                "a secret does not belong into this file; expected {file: /PATH} or {env: NAME}"
            )
        return value

    @model_validator(mode="after")
    def _is_one(self) -> Secret:
        if (self.file is None) == (self.env is None):
            raise ValueError("expected either {file: /PATH} or {env: NAME}")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("the file of a secret: expected a path from the root on")
        return self

    def read(self) -> str:
        """The secret; a line break at its end is none of it.

        Raises:
            SecretError: it is not there, or cannot be one.
        """
        if self.env is not None:
            value = os.environ.get(self.env, "")
            if not value:
                raise SecretError(f"the daemon's environment has no {self.env}; expected a secret")
            return value
        assert self.file is not None
        try:
            fd = os.open(self.file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise SecretError(f"{self.file}: no regular file; expected a secret")
                data = os.read(fd, _BYTES_MAX + 1)
            finally:
                os.close(fd)
        except OSError as error:
            raise SecretError(f"{self.file}: {error.strerror}; expected a secret") from error
        try:
            value = data.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise SecretError(f"{self.file}: not UTF-8; expected a secret") from error
        if not value or len(data) > _BYTES_MAX or "\n" in value:
            raise SecretError(f"{self.file}: expected one line with a secret, and nothing else")
        return value


class Url:
    """An address that was written out; shown without what may be secret in it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> str:
        """The whole address."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other.read() == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return shown(self)


def shown(address: Url | Secret) -> str:
    """An address as it may be shown: scheme and host, or where the whole is to be found."""
    if isinstance(address, Secret):
        return f"file {address.file}" if address.file else f"env {address.env}"
    return mask_url(address.read())


def mask_url(text: str) -> str:
    """Scheme and host of an address; whatever follows may be a secret."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "…"
    rest = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{rest}"


def check_http(text: str) -> str:
    """An address that HTTP can be spoken to.

    Raises:
        ValueError: it is none; the message does not repeat it.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text:
        raise ValueError("expected an address like https://HOST/PATH, {file: /PATH} or {env: NAME}")
    return text


def _address(value: Any) -> Any:
    return Url(check_http(value)) if isinstance(value, str) else value


def _any_address(value: Any) -> Any:
    if isinstance(value, str):
        if "://" not in value:
            raise ValueError("expected an address like SCHEME://…, {file: /PATH} or {env: NAME}")
        return Url(value)
    return value


def _keep(value: Any) -> Any:
    return value if isinstance(value, Url) else Secret.model_validate(value)


_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "format": "uri"},
        {
            "type": "object",
            "properties": {"file": {"type": "string"}, "env": {"type": "string"}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        },
    ]
}
# Slack's addresses, and those of many others, are secrets themselves.
HttpAddress = Annotated[
    Any, BeforeValidator(lambda v: _keep(_address(v))), Field(json_schema_extra=_SCHEMA)
]
AnyAddress = Annotated[
    Any, BeforeValidator(lambda v: _keep(_any_address(v))), Field(json_schema_extra=_SCHEMA)
]
