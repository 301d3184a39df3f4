"""`rote vulns`: what is known to be wrong with packages, and which of it an image has."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.audits.formats import escape, when
from sensor.cli.images_reading import Wanted, about_an_image, inventory_of
from sensor.cli.output import duration, emit, emit_json, emit_lines, emit_table, output_option
from sensor.errors import BadInputError, DownloadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sensor.images.vulns.finding import Finding
    from sensor.images.vulns.judge import Decision
    from sensor.images.vulns.store import Feed, VulnStore

_SOURCES = Path("/etc/rote/vulns.yaml")
_FEEDS = ("feed", "kind", "records", "skipped", "age", "state", "source")
_FINDINGS = ("id", "severity", "score", "vendor", "package", "version", "fixed", "remarks")
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


def _open(context: Any) -> VulnStore:
    from sensor.images.vulns.store import VulnStore

    return VulnStore(context.state_dir / "vulns.db")


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
    with closing(_open(context)) as store:
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
    with closing(_open(context)) as store:
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
    with closing(_open(context)) as store:
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
    with closing(_open(context)) as store, store.importing():
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

    with closing(_open(context)) as store:
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


@vulns.command()
@about_an_image
@click.option("--rules", type=click.Path(path_type=Path), help="Judge by these rule files.")
@click.option("--rule", default="", help="Which of the rules; by default the first.")
@click.option("--fixed", is_flag=True, help="Only what there is a fix for.")
@click.option("--own", is_flag=True, help="Match the packages, even where a report is kept.")
@output_option
@click.pass_context
def match(click_context: click.Context, /, wanted: Wanted, **options: Any) -> None:
    """List the vulnerabilities of WHAT, the worst first.

    WHAT is an archive or a directory, the name or id of an image that Docker or Podman has, an SBOM
    (CycloneDX), or a report of Trivy or Grype. Where a report of the image was imported, it
    counts in place of an own scan.

    With --rules it also says what a rule makes of them, and exits with 1 when that is to block.

    \b
    Examples:
      rote vulns match nginx:1.25 --fixed
      rote vulns match app.cdx.json
      rote vulns match app.tar --rules /etc/rote/rules.d --rule production
    """
    context = click_context.obj
    with closing(_open(context)) as store:
        findings, notes = _findings(context, store, wanted, own=options["own"])
    for note in notes:
        click.echo(f"rote: {escape(note)}", err=True)
    findings = [finding for finding in findings if finding.fixed or not options["fixed"]]
    rules = options["rules"]
    decision = _decide(findings, rules, options["rule"]) if rules is not None else None
    _show_findings(findings, decision, options["output"])
    if decision is not None and decision.action == "block":
        click_context.exit(1)


def _findings(
    context: Any, /, store: VulnStore, wanted: Wanted, *, own: bool
) -> tuple[Sequence[Finding], list[str]]:
    """What is found, and what a person should know of how."""
    from sensor.images.vulns.feeds.kinds import REPORTS, kind_of
    from sensor.images.vulns.matcher import Matcher
    from sensor.images.vulns.reports import is_sbom, kept_report, read_report, with_facts

    file = Path(wanted.what) if wanted.what else None
    if file is not None and file.suffix == ".json" and file.is_file():
        if is_sbom(file):
            wanted = replace(wanted, what="", sbom=file)
        elif kind_of(file) in REPORTS:
            report = with_facts(store, read_report(file))
            return report.findings, [f"{file}: {text}" for text in report.skipped]
    inventory = inventory_of(context, wanted)
    notes = [f"not read: {warning}" for warning in inventory.warnings]
    if not own and (kept := kept_report(store, inventory.image_id)):
        made = f", made {kept.created}" if kept.created else ""
        return kept.findings, [*notes, f"by the report of {kept.tool} that was imported{made}"]
    found = Matcher(store).match(inventory)
    reasons = Counter(why for _, why in found.unmatched)
    notes += [f"{count} packages not matched: {why}" for why, count in reasons.items()]
    if not store.feeds():
        notes.append("there are no feeds; see: rote vulns update, rote vulns import")
    return found.findings, notes


def _decide(findings: Sequence[Finding], path: Path, name: str) -> Decision:
    from sensor.images.vulns.judge import judge
    from sensor.rules.files import read_rules
    from sensor.rules.vulnerability import vulnerability_rules

    found = vulnerability_rules(read_rules(path))
    chosen = next((rule for rule in found if not name or rule.name == name), None)
    if chosen is None:
        names = ", ".join(repr(rule.name) for rule in found) or "none"
        what = f"rule {name!r}: there is none" if name else "no rule"
        raise UsageError(f"{path}: {what} of kind vulnerability; expected one of: {names}")
    return judge(findings, chosen, dt.datetime.now(dt.UTC).date())


def _show_findings(findings: Sequence[Finding], decision: Decision | None, output: str) -> None:
    judged = {j.finding: j for j in decision.judgements} if decision else {}
    ordered = [j.finding for j in decision.judgements] if decision else findings
    rows = []
    for finding in ordered:
        row = finding.to_json()
        if judgement := judged.get(finding):
            row |= {"action": str(judgement.action), "reasons": list(judgement.reasons)}
        rows.append(row)
    columns = ("action", *_FINDINGS, "why") if decision else _FINDINGS
    emit(output, rows, columns, cells=_cells, empty="no vulnerabilities are known")
    if output == "table" and rows:
        counts = Counter(row["severity"] for row in rows)
        listed = ", ".join(
            f"{counts[word]} {word}"
            for word in ("critical", "high", "medium", "low", "negligible", "unknown")
            if counts[word]
        )
        click.echo(f"\n{len(rows)} vulnerabilities: {listed}")
    if decision is not None and output == "table":
        click.echo(escape(decision.message) or f"rule {decision.rule!r}: nothing counts")


def _cells(row: Any) -> list[str]:
    remarks = [] if row["status"] in ("fixed", "open") else [row["status"]]
    if row["exploited"]:
        remarks.append(f"exploited since {row['exploited']}")
    if row["epss"] is not None:
        remarks.append(f"EPSS {row['epss']:.2f}")
    cells = [
        row["id"], row["severity"], "-" if row["score"] is None else f"{row['score']:.1f}",
        "-" if row["vendor_severity"] == "unknown" else row["vendor_severity"], row["package"],
        row["version"], row["fixed"] or "-", ", ".join(remarks),
    ]  # fmt: skip
    if "action" in row:
        cells = [row["action"], *cells, "; ".join(row["reasons"])]
    return [escape(cell) for cell in cells]
