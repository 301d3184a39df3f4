"""`rote vulns match`: which vulnerabilities an image has, and what a rule makes of them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.audits.formats import escape
from sensor.cli.images_reading import Wanted, about_an_image, inventory_of
from sensor.cli.output import emit, output_option
from sensor.errors import UsageError
from sensor.images.vulns.judge import in_use_of, judge
from sensor.images.vulns.severity import Severity
from sensor.models.store import ModelStore
from sensor.rules.files import read_rules
from sensor.rules.vulnerability import DEFAULT, VulnerabilityRule, vulnerability_rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sensor.images.vulns.finding import Finding
    from sensor.images.vulns.judge import Decision
    from sensor.images.vulns.store import VulnStore

_COLUMNS = (
    "id", "severity", "score", "vendor", "package", "version", "fixed", "in_use", "remarks",
)  # fmt: skip


def open_store(context: Any) -> VulnStore:
    """The advisory store of the state directory."""
    from sensor.images.vulns.store import VulnStore

    return VulnStore(context.state_dir / "vulns.db")


@click.command()
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

    IN USE says whether the image's models know a program of the package: yes, no, or nobody knows.
    With --rules it also says what a rule makes of them, and exits with 1 when that is to block.

    \b
    Examples:
      rote vulns match nginx:1.25 --fixed
      rote vulns match app.cdx.json
      rote vulns match app.tar --rules /etc/rote/rules.d --rule production
    """
    context = click_context.obj
    with closing(open_store(context)) as store:
        found = _findings(context, store, wanted, own=options["own"])
    for note in found.notes:
        click.echo(f"rote: {escape(note)}", err=True)
    findings = [finding for finding in found.findings if finding.fixed or not options["fixed"]]
    rules = options["rules"]
    rule = _rule(rules, options["rule"]) if rules is not None else DEFAULT
    decision = judge(findings, rule, dt.datetime.now(dt.UTC).date(), found.in_use)
    _show(decision, options["output"], judged=rules is not None)
    if rules is not None and decision.action == "block":
        click_context.exit(1)


@dataclass(frozen=True)
class _Found:
    findings: Sequence[Finding]
    notes: Sequence[str]  # what a person should know of how
    in_use: frozenset[str] | None = None


def _findings(context: Any, /, store: VulnStore, wanted: Wanted, *, own: bool) -> _Found:
    from sensor.images.vulns.feeds.kinds import REPORTS, kind_of
    from sensor.images.vulns.reports import is_sbom, read_report, with_facts
    from sensor.images.vulns.scan import Scanner

    file = Path(wanted.what) if wanted.what else None
    if file is not None and file.suffix == ".json" and file.is_file():
        if is_sbom(file):
            wanted = replace(wanted, what="", sbom=file)
        elif kind_of(file) in REPORTS:
            report = with_facts(store, read_report(file))
            notes = [f"{file}: {text}" for text in report.skipped]
            return _Found(report.findings, notes, _in_use(context, report.image_id))
    inventory = inventory_of(context, wanted)
    notes = [f"not read: {warning}" for warning in inventory.warnings]
    scanned = Scanner(store).scan(inventory, own=own)
    if scanned.by != "rote":
        made = f", made {scanned.made}" if scanned.made else ""
        notes.append(f"by the report of {scanned.by} that was imported{made}")
    elif not store.feeds():
        notes.append("there are no feeds; see: rote vulns update, rote vulns import")
    reasons = Counter(why for _, why in scanned.unmatched)
    notes += [f"{count} packages not matched: {why}" for why, count in reasons.items()]
    return _Found(scanned.findings, notes, _in_use(context, inventory.image_id))


def _in_use(context: Any, /, image_id: str) -> frozenset[str] | None:
    """The programs that containers of the image run, as far as this host has learned it."""
    path = context.state_dir / "models.db"
    if not image_id or not path.exists():
        return None
    with closing(ModelStore(path)) as models:
        return in_use_of(model for model in models.load() if model.image.id == image_id)


def _rule(path: Path, name: str) -> VulnerabilityRule:
    found = vulnerability_rules(read_rules(path))
    chosen = next((rule for rule in found if not name or rule.name == name), None)
    if chosen is None:
        names = ", ".join(repr(rule.name) for rule in found) or "none"
        what = f"rule {name!r}: there is none" if name else "no rule"
        raise UsageError(f"{path}: {what} of kind vulnerability; expected one of: {names}")
    return chosen


def _show(decision: Decision, output: str, *, judged: bool) -> None:
    rows = []
    for judgement in decision.judgements:
        row = {**judgement.finding.to_json(), "in_use": judgement.in_use}
        if judged:
            row |= {"action": str(judgement.action), "reasons": list(judgement.reasons)}
        rows.append(row)
    if not judged:
        rows.sort(key=lambda row: -Severity[row["severity"].upper()])  # the worst first, as found
    columns = ("action", *_COLUMNS, "why") if judged else _COLUMNS
    emit(output, rows, columns, cells=_cells, empty="no vulnerabilities are known")
    if output != "table":
        return
    if rows:
        counts = Counter(row["severity"] for row in rows)
        listed = ", ".join(
            f"{counts[str(word)]} {word}"
            for word in sorted(Severity, reverse=True)
            if counts[str(word)]
        )
        click.echo(f"\n{len(rows)} vulnerabilities: {listed}")
    if judged:
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
        row["version"], row["fixed"] or "-",
        {True: "yes", False: "no"}.get(row["in_use"], "-"), ", ".join(remarks),
    ]  # fmt: skip
    if "action" in row:
        cells = [row["action"], *cells, "; ".join(row["reasons"])]
    return [escape(cell) for cell in cells]
