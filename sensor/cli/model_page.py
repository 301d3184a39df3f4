"""A model for a person at a terminal: how sure it is, the curve of discovery, keys, evidence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sensor.audits.formats import escape, iso, when
from sensor.cli.output import duration, table_lines
from sensor.cli.trust_text import trust_json, trust_page
from sensor.models.arguments import shape_text
from sensor.models.diff import describe
from sensor.models.estimate import CONFIDENCE
from sensor.models.incidence import GRIDS, SLOT_SECONDS, Stratum
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, WriteKey
from sensor.models.learning import STARTS_MIN, rate
from sensor.models.model import Evidence, Model, ModelState
from sensor.models.outlook import bound_a_day, expected, expected_a_day, percent, prospects
from sensor.models.trust import key_id

_WIDTH, _HEIGHT = 60, 8
_BLOCKS = " ▁▂▃▄▅▆▇█"


def sentence(model: Model) -> str:
    """The state of a model, and how sure it is, in a sentence."""
    text = f"{escape(model.name)} is {model.state}"
    if model.history:
        text += f" since {when(model.since_ns)} ({escape(model.history[-1].cause)})"
    foretold = expected_a_day(model)
    if foretold is None:
        text += "; nothing can be foretold before two minutes were counted"
    else:
        text += f"; expected {rate(foretold)} new keys a day"
    bound = bound_a_day(model)
    if bound is None:
        text += "; nothing is promised yet: no minute was put to the test"
    else:
        text += f", at most {rate(bound)} with {CONFIDENCE:.0%} confidence; basis {basis(model)}"
    if model.unsettled:
        text += f"; {' and '.join(sorted(model.unsettled))} do not converge and are only told"
    return f"{text}."


def basis(model: Model) -> str:
    """What a bound rests on."""
    trial = model.trial
    what = "runs" if model.incidence.short_lived and model.incidence.starts else "minutes"
    quiet = f"{trial.units - trial.novel:,} quiet {what}"
    new = f" and {trial.novel:,} with something new" if trial.novel else ""
    runs = "" if what == "runs" else f" in {trial.runs} run{'s' * (trial.runs != 1)}"
    return f"{quiet}{new}{runs}"


def origin(model: Model) -> str:
    """What it was learned from, in a sentence."""
    return (
        f"Learned from {model.containers} containers in {model.runs} runs "
        f"({model.complete_runs} from the first instruction), observed for "
        f"{duration(model.observed_seconds)}, {model.lost} events lost"
        + (f", dry run began again {model.extensions} times" if model.extensions else "")
        + "."
    )


def span_seconds(model: Model) -> float:
    """From the first key to the last container: the longest period that can have been seen."""
    first = min((e.first_ns for e in model.keys.values() if e.first_ns), default=model.created_ns)
    return max(0, model.last_used_ns - first) / 1e9


def horizon(model: Model) -> str:
    """What cannot have been learned, in a sentence."""
    span = span_seconds(model)
    return (
        f"Horizon: watched over {duration(span)}; what happens less often than that, a weekly "
        "job say, has not been seen, and no figure here speaks of it."
    )


def lacking(model: Model) -> list[str]:
    """What keeps it from having learned enough; empty where nothing does."""
    if model.state not in (ModelState.LEARNING, ModelState.DRY_RUN):
        return []
    lacks = [p.lacking for p in prospects(model) if p.lacking]
    if model.incidence.starts < STARTS_MIN:
        lacks.append(f"starts seen from the beginning: {model.incidence.starts} of {STARTS_MIN}")
    return lacks


def figures(model: Model) -> list[dict[str, Any]]:
    """One row a stratum: what was counted, and what follows from it."""
    rows = []
    for stratum in Stratum:
        sample = model.incidence.sample(stratum)
        toulmin = sample.good_toulmin(sample.units / 2)
        row: dict[str, Any] = {
            "stratum": str(stratum),
            "units": sample.units,
            "keys": sample.keys,
            "once": sample.once,
            "twice": sample.twice,
            "coverage": round(sample.coverage, 5),
            "unseen": round(sample.unseen, 3),
            "expected": round(expected(sample), 3),
            "good_toulmin_half": None if toulmin is None else round(toulmin, 3),
        }
        if not stratum.of_start_up:
            for grid, size in enumerate(GRIDS):
                other = model.incidence.sample(stratum, grid)
                row[f"expected_{size * SLOT_SECONDS:.0f}s"] = round(other.expected(other.units), 3)
        rows.append(row)
    return rows


def figure_cells(row: dict[str, Any]) -> list[str]:
    """A row of figures as a person reads it; the columns are ``FIGURES``."""
    known = row["units"] > (1 if row["stratum"].endswith("startup") else 0)
    return [
        row["stratum"],
        f"{row['units']:,}",
        str(row["keys"]),
        str(row["once"]),
        str(row["twice"]),
        percent(row["coverage"]) if known else "-",
        rate(row["expected"]) if known else "-",
    ]


FIGURES = ("stratum", "units", "keys", "once", "twice", "coverage", "expected")
FIGURES_MEAN = (
    "A unit is an active minute, or one start-up. Once, twice: keys that were seen in so many "
    "units. Expected: new keys in as many units again."
)


def steps(model: Model) -> list[tuple[int, int]]:
    """The curve of discovery from its beginning to now, as points (units, distinct keys)."""
    points = model.incidence.curve
    if not points:
        return []
    return [(0, 0), *points, (model.incidence.total, points[-1][1])]


def curve(model: Model) -> Iterator[str]:
    """The curve, drawn with characters."""
    points = steps(model)
    if not points:
        yield "No unit is over yet: nothing to draw."
        return
    units, most = points[-1][0], max(keys for _, keys in points)
    width = min(_WIDTH, max(1, units))
    heights = []
    for column in range(width):
        at = units * (column + 1) / width
        keys = [keys for unit, keys in points if unit <= at][-1]
        heights.append(round(keys / most * _HEIGHT * 8) if most else 0)
    label = len(str(most))
    for row in reversed(range(_HEIGHT)):
        mark = str(most) if row == _HEIGHT - 1 else ""
        cells = "".join(_BLOCKS[min(8, max(0, height - row * 8))] for height in heights)
        yield f"{mark:>{label}} ┤{cells}".rstrip()
    yield f"{0:>{label}} └{'─' * width}"
    end = f"{units:,} units"
    yield f"{'':>{label}}  0{end:>{max(len(end) + 1, width - 1)}}"


def page(model: Model) -> Iterator[str]:
    """Everything about a model."""
    yield sentence(model)
    yield origin(model)
    yield horizon(model)
    for lack in lacking(model):
        yield f"Lacking: {lack}"
    yield f"id {escape(model.id)}"
    yield from ("", f"Discovery ({len(model.incidence.keys)} distinct keys)")
    yield from (f"  {line}" for line in curve(model))
    yield from ("", "Figures")
    yield from (f"  {line}" for line in table_lines(FIGURES, map(figure_cells, figures(model))))
    yield f"  {FIGURES_MEAN}"
    yield from ("", "Transitions")
    for moved in model.history:
        path = f"{moved.old} → {moved.new}" if moved.old else moved.new
        yield f"  {when(moved.time_ns)}  {path}: {escape(moved.cause)}"
    yield ""
    yield from _keys(model)
    yield from trust_page(model)


def _keys(model: Model) -> Iterator[str]:
    """Executions by caller, writes by program."""
    callers: dict[str, list[tuple[ExecKey, Evidence]]] = defaultdict(list)
    writers: dict[str, list[tuple[WriteKey, Evidence]]] = defaultdict(list)
    for key, evidence in model.keys.items():
        if isinstance(key, ExecKey):
            callers[str(key.parent) or "(runtime)"].append((key, evidence))
        else:
            writers[str(key.program)].append((key, evidence))
    yield f"Executions ({sum(map(len, callers.values()))})"
    for caller in sorted(callers):
        yield f"  {escape(caller)}"
        for key, evidence in sorted(callers[caller], key=lambda pair: pair[0]):
            remarks = ", ".join(remarks_on(model, key))
            yield f"    → {escape(str(key.program))}  [{remarks}]  ({seen(model, key, evidence)})"
    yield f"Writes ({sum(map(len, writers.values()))})"
    for program in sorted(writers):
        yield f"  {escape(program)}"
        for write, evidence in sorted(writers[program], key=lambda pair: pair[0]):
            operation = (write.operation.name or "").lower()
            known = seen(model, write, evidence)
            yield f"    {operation:<10} {escape(write.pattern)}  ({known})"
    for title, others in (
        ("Sessions did, not learned", model.sessions),
        ("New since it is active, not learned", still_new(model)),
    ):
        if others:
            yield f"{title} ({len(others)})"
            yield from (f"  {escape(describe(key))}" for key in sorted(others, key=describe))


def still_new(model: Model) -> dict[Key, Evidence]:
    """What was new while it is active, less what somebody accepted since."""
    return {key: seen for key, seen in model.novelties.items() if key not in model.keys}


def remarks_on(model: Model, key: ExecKey) -> list[str]:
    """What there is to say of an execution beside its programs."""
    remarks = [key.origin.name.lower(), key.actor.name.lower()]
    if key.script:
        remarks.append("script")
    if key.shape != ANY_ARGUMENTS:
        remarks.append(f"called with {escape(shape_text(key.shape))}")
    if model.is_startup_only(key):
        remarks.append("at start-up only")
    return remarks


def seen(model: Model, key: Key, evidence: Evidence) -> str:
    """The evidence of a key: since when, where, in how many units."""
    text = f"{evidence.source} {when(evidence.first_ns)}"
    if evidence.containers > 1:
        text += f", in {evidence.containers} containers"
    counts = model.incidence.keys.get(key)
    if counts is not None:
        units = [f"{counts.steady[1]:,} minutes"] if any(counts.steady) else []
        units += [f"{counts.starts} start{'s' * (counts.starts != 1)}"] if counts.starts else []
        text += f", seen in {' and '.join(units)}" if units else ""
    return text


def as_json(model: Model) -> dict[str, Any]:
    """A model with stable field names."""
    bound, foretold = bound_a_day(model), expected_a_day(model)
    trial = model.trial
    return {
        "id": escape(model.id),
        "image": escape(model.name),
        "image_id": model.image.id,
        "digest": model.image.digest,
        "signature": model.signature,
        "state": str(model.state),
        "manual": model.manual,
        "sentence": sentence(model),
        "expected_per_day": None if foretold is None else round(foretold, 4),
        "max_false_alarms_per_day": None if bound is None else round(bound, 4),
        "confidence": CONFIDENCE,
        "basis": {
            "units": trial.units,
            "effective_units": round(trial.weight, 2),
            "novel_units": trial.novel,
            "runs": trial.runs,
        },
        "unsettled": sorted(model.unsettled),
        "lacking": lacking(model),
        "span_seconds": round(span_seconds(model), 1),
        "strata": figures(model),
        "curve": [{"units": units, "keys": keys} for units, keys in steps(model)],
        "containers": model.containers,
        "runs": model.runs,
        "complete_runs": model.complete_runs,
        "observed_seconds": model.observed_seconds,
        "dry_run_seconds": model.dry_run_seconds,
        "extensions": model.extensions,
        "lost": model.lost,
        "history": [
            {"time": iso(t.time_ns), "from": t.old, "to": t.new, "cause": escape(t.cause)}
            for t in model.history
        ],
        "keys": [_key_json(model, key, evidence) for key, evidence in model.keys.items()],
        "sessions": [_key_json(model, key, evidence) for key, evidence in model.sessions.items()],
        "novelties": [
            _key_json(model, key, evidence) for key, evidence in still_new(model).items()
        ],
        "trust": trust_json(model),
    }


def _key_json(model: Model, key: Key, evidence: Evidence) -> dict[str, Any]:
    if isinstance(key, ExecKey):
        content: dict[str, Any] = {
            "kind": "exec",
            "parent": escape(str(key.parent)),
            "program": escape(str(key.program)),
            "origin": key.origin.name.lower(),
            "actor": key.actor.name.lower(),
            "script": key.script,
            "arguments": None if key.shape == ANY_ARGUMENTS else escape(shape_text(key.shape)),
            "at_startup_only": model.is_startup_only(key),
        }
    else:
        content = {
            "kind": "write",
            "program": escape(str(key.program)),
            "pattern": escape(key.pattern),
            "operation": (key.operation.name or "").lower(),
        }
    counts = model.incidence.keys.get(key)
    return {
        "id": key_id(key),
        **content,
        "first": iso(evidence.first_ns),
        "last": iso(evidence.last_ns),
        "count": evidence.count,
        "containers": evidence.containers,
        "runs": evidence.runs,
        "source": str(evidence.source),
        "start_units": counts.starts if counts else 0,
        "minute_units": counts.steady[1] if counts else 0,
    }
