"""Learn and judge real services in real containers; see scripts/soak.

    scripts/soak [run] [--services NAMES] [--minutes-learn 3] [--minutes-judge 3] [--runs 2]
                 [--write] [-- OPTIONS of rote run …]

Each service has a daemon of its own. It learns under one mix of load, in as many containers as
there are runs, and is judged in a fresh one under another mix.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime
from typing import Any

from sensor.models.adversary import model_admission
from sensor.models.files import import_model
from tests.docker.client import Docker
from tests.docker.engine import EngineError
from tests.docker.sensor import Rote
from tests.services.recipe import Service
from tests.soak import report as reports
from tests.soak.page import write_section
from tests.soak.report import Report
from tests.soak.world import (
    FAILURES,
    chosen,
    end,
    engine,
    go_on_after,
    say,
    start,
    time_limit,
    work,
)

_SPARE_SECONDS = 300.0  # for what a service needs besides: start, stop, the last round


def soak(docker: Docker, service: Service, options: argparse.Namespace, extra: list[str]) -> Report:
    """Learn and judge one service; everything of it is gone at the end."""
    report = Report(service.name)
    learning = 60 * options.minutes_learn
    settings = [*("--runtime", f"docker={docker.url}", "--quiet", "--ring-size", "32M"), *extra]
    for option, share in (("--learn", 0.5), ("--dry-run", 0.3)):
        if not any(word.startswith(option) for word in extra):
            settings += [option, f"{learning * share:.0f}s"]
    rote = Rote("soak", settings)
    limit = 2 * learning + 60 * options.minutes_judge + _SPARE_SECONDS
    try:
        with time_limit(limit):
            rote.start()
            report.runs = options.runs
            _learn(docker, rote, service, report, learning)
            _judge(docker, rote, service, report, 60 * options.minutes_judge)
            _look_at_model(rote, service, report)
    except FAILURES as error:
        go_on_after(error)
        report.failure = f"{type(error).__name__}: {str(error)[-1500:]}"
    finally:
        docker.clean()
        rote.remove()
    return report


def _learn(docker: Docker, rote: Rote, service: Service, report: Report, seconds: float) -> None:
    """All runs of the learning mix; the last goes on while the model is not active yet."""
    began = time.monotonic()
    for number in range(report.runs):
        container = start(docker, rote, service, service.learn_options)
        until = began + seconds * (number + 1) / report.runs
        work(docker, container, service.learn, until - time.monotonic())
        if number == report.runs - 1:
            while not _is_active(rote, service) and time.monotonic() < began + 2 * seconds:
                work(docker, container, service.learn, 0)
        end(rote, container)
        say(f"{service.name}: learned, run {number + 1}")
    report.learned_minutes = (time.monotonic() - began) / 60
    row = _row(rote, service)
    report.state = str(row["state"])
    report.expected_per_day = row.get("expected_per_day")
    report.bound_per_day = row.get("max_false_alarms_per_day")
    if report.state != "active":
        report.by_hand = True
        rote("models", "activate", service.recipe.reference)


def _row(rote: Rote, service: Service) -> dict[str, Any]:
    return next(row for row in rote.models() if row["image"] == service.recipe.reference)


def _is_active(rote: Rote, service: Service) -> bool:
    return bool(_row(rote, service)["state"] == "active")


def _judge(docker: Docker, rote: Rote, service: Service, report: Report, seconds: float) -> None:
    began = time.monotonic()
    container = start(docker, rote, service, service.judge_options)
    work(docker, container, service.judge, seconds)
    end(rote, container)
    report.judged_minutes = (time.monotonic() - began) / 60
    report.take_audits(rote.audits("--container", container.id))
    say(f"{service.name}: judged, {report.actual} false keys")


def _look_at_model(rote: Rote, service: Service, report: Report) -> None:
    name = service.recipe.reference
    shown = rote.json("models", "show", name)
    report.sentence = shown["sentence"]
    report.lost = shown["lost"]
    kinds = [key["kind"] for key in shown["keys"]]
    report.keys_executions, report.keys_writes = kinds.count("exec"), kinds.count("write")
    if not report.by_hand:
        # The first time of each: from when on it learned, and when it became active.
        steps = reversed(shown["history"])
        times = {step["to"]: datetime.fromisoformat(step["time"]) for step in steps}
        report.minutes_active = (times["active"] - times["learning"]).total_seconds() / 60
    exported = rote.home / "exported.model"
    rote("models", "export", name, str(exported))
    report.take_admission(model_admission(import_model(exported.read_bytes(), str(exported))))


def main(arguments: list[str]) -> int:
    """Run, print, and on request write docs/learning.md."""
    parser = argparse.ArgumentParser("scripts/soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--services", default="", help="names, by commas; without it: all")
    parser.add_argument("--minutes-learn", type=float, default=3.0)
    parser.add_argument("--minutes-judge", type=float, default=3.0)
    parser.add_argument("--runs", type=int, default=2, help="containers that it learns from")
    parser.add_argument("--write", action="store_true", help="put the table into docs/learning.md")
    own, _, extra = _split(arguments)
    options = parser.parse_args(own)
    services = chosen(options.services)
    found: list[Report] = []
    try:
        with engine(services) as docker:
            for service in services:
                say(service.name)
                report = soak(docker, service, options, extra)
                found.append(report)
                reports.keep([report])
                sys.stdout.write(reports.names(report))
                sys.stdout.flush()
    except EngineError as error:
        raise SystemExit(f"soak: {error}") from error
    text = reports.table(reports.load())
    sys.stdout.write(text)
    if options.write:
        write_section("soak", text)
    return int(any(report.failure for report in found))


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Ours, and behind ``--`` those of ``rote run``."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]
