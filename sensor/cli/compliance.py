"""`rote compliance`: how containers and images are set up, and what is wrong with that."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.audits.formats import escape
from sensor.cli.images_reading import engine_option
from sensor.cli.output import emit, emit_json, emit_lines, emit_table, output_option
from sensor.errors import UsageError
from sensor.rules.checks import CHECKS, OWN_CHECKS, check_id, natural
from sensor.rules.compliance import DEFAULT, TEMPLATES, template_checks, template_text
from sensor.yamlfiles import nearest

if TYPE_CHECKING:
    from sensor.cli.compliance_reading import Looked
    from sensor.images.compliance.custom import CustomCheck
    from sensor.images.compliance.judge import ComplianceDecision, Result
    from sensor.rules.compliance import ComplianceRule

_LIST = ("id", "alias", "severity", "check", "templates")
_TEMPLATE_MARKS = {"cis-docker": "CIS", "nist-800-190": "NIST", "pci-dss": "PCI"}
_checks_option = click.option(
    "--checks",
    type=click.Path(path_type=Path, file_okay=False),
    default=OWN_CHECKS,
    show_default=True,
    help="Where one's own checks are.",
)


@click.group()
def compliance() -> None:
    """How containers and images are set up: privileges, sharing, limits, secrets.

    Checks of the CIS Docker Benchmark (sections 4 and 5), more of Rote's own, and those that you
    write yourself. Rote need not run. docs/compliance.md explains them.
    """


@compliance.command()
@click.argument("names", nargs=-1, metavar="[WHAT]...")
@click.option("--all", "every", is_flag=True, help="Every container, running or not.")
@click.option("--spec", type=click.Path(path_type=Path), help="An OCI runtime's config.json.")
@click.option(
    "--inspect", "inspected", type=click.Path(path_type=Path), help="What `docker inspect` printed."
)
@click.option("--rules", type=click.Path(path_type=Path), help="Judge by these rule files.")
@click.option("--rule", default="", help="Which of the rules; by default the one that matches.")
@_checks_option
@click.option(
    "--malware", type=click.Path(path_type=Path), help="Hashes of programs that must not be."
)
@click.option("--quick", is_flag=True, help="Do not look at the files of images.")
@click.option("--full", is_flag=True, help="In tables, also what passed and what is not known.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a report for a browser."
)
@engine_option
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "jsonl", "ocsf"]),
    default="table",
    show_default=True,
    help="How to print; ocsf: a Compliance Finding (class 2003) a line.",
)
@click.pass_context
def check(click_context: click.Context, /, **options: Any) -> None:
    """Check WHAT: containers, images, or archives of images.

    With --rules the exit status is 1 when a rule says block.

    \b
    Examples:
      rote compliance check web db
      rote compliance check --all --html report.html
      rote compliance check nginx:1.25 app.tar
      rote compliance check --spec bundle/config.json -o ocsf
      rote compliance check --all --rules /etc/rote/rules.d
    """
    from sensor.cli.compliance_reading import Asked, subjects
    from sensor.images.compliance.custom import read_custom_checks
    from sensor.images.compliance.judge import evaluate

    customs = read_custom_checks(options["checks"])
    choose = _chooser(options["rules"], options["rule"])
    names = ("names", "every", "spec", "inspected", "engine", "malware", "quick")
    found = subjects(click_context.obj, Asked(**{name: options[name] for name in names}))
    judged = [(one, _decided(evaluate(one.subject, customs), choose(one))) for one in found]
    host = platform.node()
    _show(judged, options["output"], host, judged_by_rule=options["rules"] is not None,
          full=options["full"])  # fmt: skip
    if options["html"] is not None:
        _write_page(options["html"], judged, host, by_rule=options["rules"] is not None)
    blocked = [decision for _, decision in judged if decision.action == "block"]
    if blocked and options["rules"] is not None:
        click_context.exit(1)


def _decided(results: Sequence[Result], rule: ComplianceRule) -> ComplianceDecision:
    from sensor.images.compliance.judge import decide, unnamed

    if missing := unnamed(rule, results):
        names = ", ".join(escape(name) for name in missing)
        click.echo(f"rote: rule {rule.name!r} names checks there are none of: {names}", err=True)
    return decide(results, rule)


def _chooser(path: Path | None, name: str) -> Any:
    """Which rule counts for what was looked at."""
    if path is None:
        if name:
            raise UsageError("--rule chooses one of --rules; expected that as well")
        return lambda _: DEFAULT
    from sensor.rules.compliance import compliance_rules, rule_for
    from sensor.rules.files import read_rules
    from sensor.rules.scope import Where

    rules = compliance_rules(read_rules(path))
    if name:
        chosen = next((rule for rule in rules if rule.name == name), None)
        if chosen is None:
            names = [rule.name for rule in rules]
            known = ", ".join(map(repr, names)) or "none"
            raise UsageError(
                f"{path}: no rule {name!r} of kind compliance{nearest(name, names)}; there are: "
                f"{known}"
            )
        return lambda _: chosen
    where = Where(platform.node())
    return lambda looked: rule_for(rules, looked.container, where)


Judged = Sequence[tuple["Looked", "ComplianceDecision"]]


def _show(judged: Judged, output: str, host: str, *, judged_by_rule: bool, full: bool) -> None:
    from sensor.cli.compliance_ocsf import to_ocsf
    from sensor.images.compliance.judge import by_number

    if output == "ocsf":
        now = time.time_ns()
        for one, decision in judged:
            results = by_number([result for result, _ in decision.results])
            emit_lines(to_ocsf(one.subject, result, now, host) for result in results)
        return
    documents = [_document(one, decision, judged_by_rule) for one, decision in judged]
    if output == "json":
        emit_json(documents)
    elif output == "jsonl":
        for document in documents:
            whose = {key: document[key] for key in ("name", "container", "image")}
            emit_lines({**whose, **result} for result in document["results"])
    else:
        for i, (one, decision) in enumerate(judged):
            if i:
                click.echo()
            _table(one, decision, judged_by_rule=judged_by_rule, full=full)


def _document(one: Looked, decision: ComplianceDecision, by_rule: bool) -> dict[str, Any]:
    subject = one.subject
    results = [
        {**result.to_json(), **({"action": str(action)} if by_rule else {})}
        for result, action in decision.results
    ]
    return {
        "name": subject.name,
        "container": subject.container_id,
        "image": subject.image_id,
        "reference": subject.reference,
        "counts": dict(Counter(result["status"] for result in results)),
        **(
            {"rule": decision.rule, "action": str(decision.action), "message": decision.message}
            if by_rule
            else {}
        ),
        "results": results,
    }


def _table(one: Looked, decision: ComplianceDecision, *, judged_by_rule: bool, full: bool) -> None:
    from sensor.images.compliance.check import Status

    subject = one.subject
    counts = Counter(result.status for result, _ in decision.results)
    said = ", ".join(f"{counts[status]} {_SAID[str(status)]}" for status in Status)
    click.echo(f"{escape(subject.name)}  {subject.container_id[:12]}".rstrip() + f": {said}")
    if judged_by_rule and decision.message:
        click.echo(escape(decision.message))
    rows = []
    for result, action in decision.results:
        if not full and result.status is not Status.FAIL and not result.error:
            continue
        row = [result.check.id, result.check.severity, escape(result.check.title)]
        row += [str(result.status)] if full else []
        row += [str(action)] if judged_by_rule else []
        rows.append([*row, escape(result.evidence)])
    if rows:
        columns = ["id", "severity", "check"]
        columns += ["status"] if full else []
        columns += ["action"] if judged_by_rule else []
        emit_table([*columns, "evidence"], rows)


_SAID = {"fail": "failed", "pass": "passed", "unknown": "not known",
         "not-applicable": "not applicable"}  # fmt: skip


def _write_page(path: Path, judged: Judged, host: str, *, by_rule: bool) -> None:
    from sensor.cli.compliance_html import page

    rules = ", ".join(dict.fromkeys(decision.rule for _, decision in judged)) if by_rule else ""
    content = page([(one.subject, d) for one, d in judged], host, time.time_ns(), rules)
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; no report was written") from error
    click.echo(f"{path}: report of {len(judged)}", err=True)


@compliance.command("list")
@_checks_option
@output_option
def list_(checks: Path, output: str) -> None:
    """List all checks, one's own included, with the templates that have them."""
    rows = [
        {
            "id": entry.id,
            "alias": entry.alias,
            "severity": entry.severity,
            "check": entry.title,
            "templates": [name for name in TEMPLATES if entry.id in template_checks(name)],
            "standards": [f"{name} {section}" for name, section in entry.standards],
        }
        for entry in [
            *sorted(CHECKS.values(), key=lambda entry: natural(entry.id)),
            *(custom.check for custom in _customs(checks)),
        ]
    ]
    emit(output, rows, _LIST, cells=_list_cells)


def _list_cells(row: Mapping[str, Any]) -> Sequence[str]:
    marks = " ".join(_TEMPLATE_MARKS[name] for name in row["templates"])
    return (row["id"], row["alias"], row["severity"], escape(row["check"]), marks)


def _customs(directory: Path) -> Sequence[CustomCheck]:
    from sensor.images.compliance.custom import read_custom_checks

    return read_custom_checks(directory)


@compliance.command()
@click.argument("name", metavar="ID")
@_checks_option
def explain(name: str, checks: Path) -> None:
    """Explain a check: what it means, what to do, which standards ask for it."""
    try:
        known = check_id(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    custom = next((c for c in _customs(checks) if c.check.id == known), None)
    found = CHECKS.get(known) or (custom.check if custom else None)
    if found is None:
        raise UsageError(f"check {name!r}: {checks} has none{nearest(name, CHECKS)}")
    alias = f" (also {found.alias})" if found.alias else ""
    click.echo(f"{found.id}{alias}  {escape(found.title)}")
    click.echo(f"severity: {found.severity}")
    if found.why:
        click.echo(f"why: {escape(found.why)}")
    if found.remedy:
        click.echo(f"remedy: {escape(found.remedy)}")
    for standard, section in found.standards:
        click.echo(f"asked for by: {standard}, {section}")
    if custom is not None:
        click.echo(f"program: {escape(str(custom.program))}, at most {custom.seconds:g} s")


@compliance.command()
@click.argument("name", required=False, default="")
def template(name: str) -> None:
    """Print a template as a rule file: cis-docker, nist-800-190 or pci-dss."""
    if not name:
        for known in TEMPLATES:
            click.echo(f"{known}  {len(template_checks(known))} checks")
        return
    click.echo(template_text(name), nl=False)
