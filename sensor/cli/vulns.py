"""`rote vulns`: what is known to be wrong with packages, and which of it an image has."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.audits.formats import escape, when
from sensor.cli.output import duration, emit, emit_json, emit_lines, emit_table, output_option
from sensor.cli.vulns_match import match, open_store
from sensor.errors import BadInputError, DownloadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sensor.images.vulns.store import Feed, VulnStore

_SOURCES = Path("/etc/rote/vulns.yaml")
_FEEDS = ("feed", "kind", "records", "skipped", "age", "state", "source")
_AFFECTED = ("ecosystem", "package", "fixed", "status", "severity", "advisory", "feed")
_config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_SOURCES,
    show_default=True,
    help="Which feeds there are, and where.",
)


@click.group()
def vulns() -> None:
    """Vulnerabilities: feeds of advisories, and which of them concern an image.

    Feeds are configured in /etc/rote/vulns.yaml; docs/vulnerabilities.md explains it. No daemon is
    needed.
    """


@vulns.command()
@click.argument("feeds", nargs=-1)
@_config_option
@output_option
@click.pass_obj
def update(context: Any, /, feeds: tuple[str, ...], config: Path, output: str) -> None:
    """Download the configured FEEDS (default: all) and import what is new.

    A feed that fails keeps what it said before, and the others go on; the command then exits with
    4. What broke off is gone on with the next time.
    """
    from sensor.images.vulns.sources import KNOWN, read_sources
    from sensor.images.vulns.update import select
    from sensor.images.vulns.update import update as update_feeds

    sources = read_sources(config)
    if not sources.feeds:
        raise UsageError(
            f"{config}: no feeds; expected such as `version: 1` and `feeds: [debian, kev, nvd]`, "
            f"of {', '.join(KNOWN)}"
        )
    chosen = select(sources, feeds)
    rows, failed = [], []
    with closing(open_store(context)) as store:
        progress = _progress()
        for outcome in update_feeds(
            store, sources, chosen, progress=progress, received=_received()
        ):
            _clear(progress)
            done = outcome.imported
            state = "failed" if done is None else "unchanged" if done.unchanged else "imported"
            if done is None:
                failed.append(outcome.feed)
                click.echo(f"rote: {outcome.feed}: {outcome.error}", err=True)
            rows.append(
                {
                    "feed": outcome.feed,
                    "state": state,
                    "records": done.records if done else None,
                    "skipped": done.skipped if done else None,
                    "seconds": round(outcome.seconds, 1),
                    "error": outcome.error,
                }
            )
    emit(
        output,
        rows,
        ("feed", "state", "records", "skipped", "seconds"),
        cells=lambda row: [
            "-" if row[name] is None else escape(str(row[name]))
            for name in ("feed", "state", "records", "skipped", "seconds")
        ],
    )
    if failed:
        raise DownloadError(
            f"{len(failed)} of {len(rows)} feeds could not be updated: {', '.join(failed)}"
        )


@vulns.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--feed", default="", help="Its name; by default what the file is.")
@click.option("--kind", default="", help="Where it is not recognised: osv, secdb, nvd, …")
@click.option("--release", default="", help="Of the distribution, for debsecan's files: bookworm.")
@click.option("--image", default="", help="The id of the image that a report must be about.")
@click.pass_obj
def import_(context: Any, /, files: tuple[Path, ...], **options: str) -> None:
    """Import FILES: feeds, or reports of Trivy and Grype in place of an own scan.

    Feeds are OSV (zip, directory, tar, JSON, YAML), Debian's tracker (JSON), DSA and DLA lists,
    debsecan, Alpine's and Wolfi's security databases, NVD 2.0, KEV and EPSS; packed or not.

    \b
    Examples:
      rote vulns import all.zip known_exploited_vulnerabilities.json
      rote vulns import --feed debian-dsa DSA.list
      rote vulns import trivy-report.json
    """
    if options["feed"] and len(files) > 1:
        raise UsageError(f"--feed {options['feed']}: expected one file with it; got {len(files)}")
    failed: list[str] = []
    with closing(open_store(context)) as store:
        for file in files:
            try:
                _import_one(store, file, options)
            except BadInputError as error:
                if len(files) == 1:
                    raise
                failed.append(str(file))
                click.echo(f"rote: {error}", err=True)
    if failed:
        raise BadInputError(
            f"{len(failed)} of {len(files)} files could not be imported; the others are"
        )


def _import_one(store: VulnStore, file: Path, options: Mapping[str, str]) -> None:
    from sensor.images.vulns.feeds.kinds import REPORTS, kind_of
    from sensor.images.vulns.importer import import_feed
    from sensor.images.vulns.reports import keep_report, read_report

    kind = options["kind"] or kind_of(file)
    if kind in REPORTS:
        report = read_report(file, image_id=options["image"])
        keep_report(store, report)
        for problem in report.skipped:
            click.echo(f"rote: {file}: {problem}", err=True)
        click.echo(
            f"{file}: report of {kind} on {escape(report.reference)} ({report.image_id[:19]}): "
            f"{len(report.findings)} vulnerabilities"
        )
        return
    progress = _progress()
    done = import_feed(
        store,
        file,
        name=options["feed"],
        kind=kind,
        release=options["release"],
        progress=progress,
    )
    _clear(progress)
    if done.unchanged:
        click.echo(f"{file}: feed {done.feed}: the same as before, {done.records} records")
        return
    skipped = (
        f"; {done.skipped} could not be used: rote vulns status --problems {done.feed}"
        if done.skipped
        else ""
    )
    resumed = f", went on after {done.resumed}" if done.resumed else ""
    click.echo(f"{file}: feed {done.feed} ({kind}): {done.records} records{resumed}{skipped}")


def _progress() -> Callable[[str, int], None] | None:
    """A line on standard error that counts, when a person looks at it."""
    if not sys.stderr.isatty():
        return None
    return lambda feed, units: click.echo(
        f"\r\x1b[K{feed}: {units} records read", err=True, nl=False
    )


def _received() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, whole: int) -> None:
        of = f" of {whole / 1e6:.1f}" if whole else ""
        click.echo(f"\r\x1b[K{done / 1e6:.1f}{of} MB", err=True, nl=False)

    return show


def _clear(progress: object) -> None:
    if progress is not None:
        click.echo("\r\x1b[K", err=True, nl=False)


@vulns.command()
@click.option("--problems", metavar="FEED", help="List what of this feed could not be used.")
@output_option
@click.pass_obj
def status(context: Any, /, problems: str | None, output: str) -> None:
    """Show the feeds: how old each is, how much is in it, what went wrong."""
    with closing(open_store(context)) as store:
        if problems is not None:
            if store.feed(problems) is None:
                names = ", ".join(feed.name for feed in store.feeds()) or "none"
                raise UsageError(f"feed {problems!r}: there is none; expected one of: {names}")
            listed = [{"place": p, "text": t} for p, t in store.problems(problems)]
            emit(
                output,
                listed,
                ("place", "text"),
                cells=lambda row: (escape(row["place"]), escape(row["text"])),
                empty="no problems",
            )
            return
        now = time.time_ns()
        rows = [_feed_row(feed, now) for feed in store.feeds()]
    for row in rows:
        if row["error"]:
            click.echo(f"rote: {row['feed']}: {escape(row['error'])}", err=True)
    emit(
        output,
        rows,
        _FEEDS,
        cells=lambda row: [
            row["feed"], row["kind"], str(row["records"]), str(row["skipped"]),
            "never" if row["age_seconds"] is None else duration(row["age_seconds"]),
            row["state"], escape(row["source"]),
        ],
        empty="no feeds; see: rote vulns update, rote vulns import",
    )  # fmt: skip


def _feed_row(feed: Feed, now: int) -> dict[str, Any]:
    state = "failed" if feed.error else "current"
    return {
        "feed": feed.name,
        "kind": feed.kind,
        "records": feed.records,
        "skipped": feed.skipped,
        "age_seconds": round(feed.age(now)) if feed.checked_ns else None,
        "checked": when(feed.checked_ns) if feed.checked_ns else None,
        "imported": when(feed.imported_ns) if feed.imported_ns else None,
        "state": "STALE" if feed.is_stale(now) else state,
        "error": feed.error,
        "source": feed.source,
    }


@vulns.command()
@click.argument("feed")
@click.pass_obj
def remove(context: Any, /, feed: str) -> None:
    """Forget a FEED and all it said."""
    with closing(open_store(context)) as store, store.importing():
        store.remove_feed(feed)
    click.echo(f"{feed}: removed")


@vulns.command()
@click.argument("cve")
@output_option
@click.pass_obj
def show(context: Any, /, cve: str, output: str) -> None:
    """Show what is known of a CVE (or GHSA-…, DSA-…): score, exploitation, packages.

    Lists what is not affected, ignored or undetermined as well.
    """
    from sensor.images.vulns.known import known_of

    with closing(open_store(context)) as store:
        found = known_of(store, cve)
    if found is None:
        raise UsageError(f"{cve}: no feed knows it; see: rote vulns status")
    if output != "table":
        (emit_json if output == "json" else lambda value: emit_lines([value]))(found)
        return
    click.echo(f"{cve}  {escape(found['summary'])}".rstrip())
    for name, value in found.items():
        if name not in ("id", "summary", "affected") and value not in (None, "", False, [], ()):
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            click.echo(f"  {name:<12} {escape(shown)}")
    if found["affected"]:
        click.echo()
        emit_table(
            _AFFECTED,
            [[escape(str(row[name])) or "-" for name in _AFFECTED] for row in found["affected"]],
        )


vulns.add_command(match)
