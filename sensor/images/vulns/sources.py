"""Where feeds come from: what may stand in /etc/rote/vulns.yaml, and the feeds' own addresses."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from sensor.config import parse_duration
from sensor.errors import UsageError, YamlFileError
from sensor.images.vulns.feeds.kinds import READERS
from sensor.images.vulns.store import STALE_SECONDS
from sensor.yamlfiles import explain_validation, nearest, read_yaml

SOURCES_FILE = Path("/etc/rote/vulns.yaml")
_TRACKER = "https://security-tracker.debian.org/tracker"
_TRACKER_SOURCES = "https://salsa.debian.org/security-tracker-team/security-tracker/-/raw/master"
_NVD = "https://nvd.nist.gov/feeds/json/cve/2.0/nvdcve-2.0"
_NVD_FIRST = 2002
_OSV = "https://osv-vulnerabilities.storage.googleapis.com"
_FIXED: dict[str, tuple[str, str]] = {
    "debian": ("debian-tracker", f"{_TRACKER}/data/json"),
    "debian-dsa": ("debian-list", f"{_TRACKER_SOURCES}/data/DSA/list"),
    "debian-dla": ("debian-list", f"{_TRACKER_SOURCES}/data/DLA/list"),
    "wolfi": ("secdb", "https://packages.wolfi.dev/os/security.json"),
    "chainguard": ("secdb", "https://packages.cgr.dev/chainguard/security.json"),
    "kev": (
        "kev",
        "https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities.json",
    ),
    "epss": ("epss", "https://epss.empiricalsecurity.com/epss_scores-current.csv.gz"),
}
KNOWN = (*_FIXED, "nvd", "nvd:YEAR", "alpine:vRELEASE", "osv:ECOSYSTEM", "debsecan:CODENAME")


@dataclass(frozen=True, slots=True)
class Source:
    """One feed and where it is.

    Attributes:
        name: of the feed.
        kind: a name of ``kinds.READERS``.
        url: http or https; "" when it is a file.
        file: on this host; None when it is fetched.
        release: of the distribution, for kinds that do not say so themselves.
        stale_seconds: the age from which on it is stale.
    """

    name: str
    kind: str
    url: str = ""
    file: Path | None = None
    release: str = ""
    stale_seconds: float = STALE_SECONDS

    @property
    def place(self) -> str:
        """For a person."""
        return self.url or str(self.file)


@dataclass(frozen=True, slots=True)
class Sources:
    """All that is configured.

    Attributes:
        feeds: in order.
        proxy: "" for what the environment says, "none" for none.
        ca_file: certificates to trust instead of the system's.
        timeout: seconds without a byte after which a server is given up.
    """

    feeds: tuple[Source, ...] = ()
    proxy: str = ""
    ca_file: Path | None = None
    timeout: float = 60.0


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return value


def _http(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://… or https://…")
    return value


Duration = Annotated[
    float, BeforeValidator(_seconds, json_schema_input_type=str | float), Field(gt=0)
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FeedModel(_Strict):
    """A feed: one of the known ones by name, perhaps from elsewhere; or any, with its kind."""

    name: str = Field(min_length=1, max_length=80)
    kind: Literal[tuple(READERS)] | None = None  # type: ignore[valid-type]
    url: str = Field(default="", description="Instead of the feed's own address")
    file: Path | None = Field(default=None, description="On this host; nothing is downloaded")
    release: str = Field(default="", description="Where the kind does not say it: v3.20, bookworm")
    stale_after: Duration | None = None

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return _http(value) if value else value

    @model_validator(mode="after")
    def _place(self) -> FeedModel:
        if self.url and self.file is not None:
            raise ValueError("expected 'url' or 'file', not both")
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("file: expected a path from the root on")
        known = known_feed(self.name)
        if not known and not (self.url or self.file):
            raise ValueError(
                f"name {self.name!r}: not known; expected one of {', '.join(KNOWN)}, or 'url' or "
                f"'file' with 'kind'{nearest(self.name, _FIXED)}"
            )
        if not known and self.kind is None:
            raise ValueError(f"kind: missing; expected one of {', '.join(READERS)}")
        if len(known) > 1 and (self.url or self.file):
            raise ValueError(f"name {self.name!r}: stands for {len(known)} feeds; name one of them")
        return self


def _feed(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class SourcesModel(_Strict):
    """The file."""

    version: Literal[1]
    proxy: str = Field(default="", description="http://HOST:PORT; 'none'; else the environment's")
    mirror: str = Field(
        default="", description="Where all feeds are: MIRROR/HOST/PATH of their own addresses"
    )
    ca_file: Path | None = None
    timeout: Duration = 60.0
    stale_after: Duration = STALE_SECONDS
    feeds: list[
        Annotated[FeedModel, BeforeValidator(_feed, json_schema_input_type=str | FeedModel)]
    ] = []

    @field_validator("proxy", "mirror")
    @classmethod
    def _address(cls, value: str) -> str:
        return value if value in ("", "none") else _http(value)


def known_feed(name: str) -> tuple[Source, ...]:
    """The feeds of a name that needs no address; none when it is not known."""
    if name in _FIXED:
        kind, url = _FIXED[name]
        return (Source(name, kind, url),)
    base, _, rest = name.partition(":")
    if base == "nvd":
        years = [rest] if rest else [str(year) for year in range(_NVD_FIRST, _this_year() + 1)]
        return tuple(Source(f"nvd-{year}", "nvd", f"{_NVD}-{year}.json.gz") for year in years)
    if not rest:
        return ()
    if base == "alpine":
        release = rest if rest == "edge" else f"v{rest.removeprefix('v')}"
        return tuple(
            Source(
                f"alpine-{release}-{part}", "secdb",
                f"https://secdb.alpinelinux.org/{release}/{part}.json", release=release,
            )
            for part in ("main", "community")
        )  # fmt: skip
    if base == "osv":
        stem = rest.replace(" ", "-").replace(":", "-")
        return (Source(f"osv-{stem}", "osv", f"{_OSV}/{quote(rest)}/all.zip"),)
    if base == "debsecan":
        url = f"{_TRACKER}/debsecan/release/1/{quote(rest)}"
        return (Source(f"debsecan-{rest}", "debsecan", url, release=rest),)
    return ()


def _this_year() -> int:
    return dt.datetime.now(dt.UTC).year


def read_sources(path: Path) -> Sources:
    """Read the file.

    Args:
        path: what is not there configures nothing.

    Raises:
        YamlFileError: one line with file, line and field.
    """
    if not path.exists():
        return Sources()
    document = read_yaml(path)
    try:
        model = SourcesModel.model_validate(document.value)
    except ValidationError as error:
        raise YamlFileError(explain_validation(document, error, SourcesModel)) from error
    feeds: dict[str, Source] = {}
    for i, entry in enumerate(model.feeds):
        for source in _sources(entry, model):
            if source.name in feeds:
                raise document.error(("feeds", i, "name"), f"{source.name!r} stands there twice")
            feeds[source.name] = source
    return Sources(tuple(feeds.values()), model.proxy, model.ca_file, model.timeout)


def _sources(entry: FeedModel, model: SourcesModel) -> tuple[Source, ...]:
    stale = entry.stale_after or model.stale_after
    found = known_feed(entry.name)
    if not found:
        found = (Source(entry.name, str(entry.kind)),)
    changed = []
    for source in found:
        url = entry.url or ("" if entry.file else _mirrored(source.url, model.mirror))
        changed.append(
            replace(
                source,
                kind=str(entry.kind or source.kind),
                url=url,
                file=entry.file,
                release=entry.release or source.release,
                stale_seconds=stale,
            )
        )
    return tuple(changed)


def _mirrored(url: str, mirror: str) -> str:
    if not mirror or not url:
        return url
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"
