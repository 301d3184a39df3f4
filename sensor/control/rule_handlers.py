"""What the verbs about rules and sessions do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sensor.audits.query import AuditQuery, parse_time
from sensor.containers.container import Container
from sensor.control.server import Handler
from sensor.errors import UsageError
from sensor.models.keys import ExecKey, WriteKey
from sensor.models.model import Model
from sensor.pipeline import Pipeline, Watched
from sensor.rules.explain import chosen, explain
from sensor.rules.files import ImageRule, RuleSet, describe, read_rules, scope_from
from sensor.rules.keeper import RuleKeeper
from sensor.rules.replay import replay
from sensor.rules.schema import ScopeModel
from sensor.rules.scope import Where


def _rules_at(path: Path) -> RuleSet:
    if not path.exists():
        raise UsageError(f"{path}: there is none; expected a rule file or a directory of them")
    return read_rules(path)


def _containers_of(
    rules: Sequence[ImageRule], watched: Sequence[Watched], where: Where
) -> Counter[str]:
    """For how many containers each rule about images counts: of a kind, the first that matches."""
    scopes = [
        (rule, scope_from(ScopeModel.model_validate(rule.content["scope"]))) for rule in rules
    ]
    found: Counter[str] = Counter()
    for kind in {rule.kind for rule in rules}:
        for entry in watched:
            first = next(
                (
                    rule.name
                    for rule, scope in scopes
                    if rule.kind == kind and scope.matches(entry.container, where)
                ),
                None,
            )
            if first is not None:
                found[first] += 1
    return found


def rule_handlers(
    pipeline: Pipeline,
    keeper: RuleKeeper,
    reload_all: Callable[[], Awaitable[dict[str, Any]]],
    preview: Callable[[RuleSet], Awaitable[list[dict[str, str]]]],
) -> dict[str, Handler]:
    """Verb → handler.

    Args:
        pipeline: the running loop.
        keeper: of the rules.
        reload_all: reads rules and channels again; what holds afterwards.
        preview: what rules about images would make of those that run.
    """

    def listing(_: dict[str, Any]) -> dict[str, Any]:
        watched = pipeline.watched()
        rows: list[dict[str, Any]] = []
        for order, rule in enumerate(pipeline.policy.all(), 1):
            hit = pipeline.hits.of(rule.name)
            rows.append(
                {
                    "order": order,
                    **describe(rule),
                    "containers": sum(w.rule.name == rule.name for w in watched),
                    "hits": hit.count,
                    "last_used": hit.last_ns,
                    "hits_by_detection": hit.detections,
                }
            )
        meant = _containers_of(keeper.rules.image_rules, watched, pipeline.policy.where)
        for image_rule in keeper.rules.image_rules:
            hit = pipeline.hits.of(image_rule.name)
            rows.append(
                {
                    **image_rule.content,
                    "order": 0,
                    "source": image_rule.source,
                    "containers": meant[image_rule.name],
                    "hits": hit.count,
                    "last_used": hit.last_ns,
                    "hits_by_detection": hit.detections,
                }
            )
        return {
            "rules": rows,
            "path": str(keeper.path),
            "error": keeper.error,
            "disabled": list(keeper.rules.disabled),
            "prevent": list(pipeline.policy.prevent),
        }

    def tell(args: dict[str, Any]) -> dict[str, Any]:
        watched = find_watched(pipeline, str(args["container"]))
        path = str(args["path"])
        if not path.startswith("/"):
            raise UsageError(f"path {path!r}: expected an absolute path in the container")
        by, sha256 = str(args.get("by") or ""), str(args.get("sha256") or "")
        found = explain(path, watched.model, watched.rule, by=by, sha256=sha256)
        return {
            "container": watched.container.name,
            "model": watched.model.name,
            "model_state": str(watched.model.state),
            "rule": watched.rule.name,
            "rules": chosen(watched.container, pipeline.policy),
            "answers": [answer.as_dict() for answer in found],
            "guarantee": pipeline.kernel.attachment.guarantee,
            "guarantee_files": pipeline.kernel.attachment.guarantee_files,
        }

    async def test(args: dict[str, Any]) -> dict[str, Any]:
        rules = _rules_at(Path(str(args["path"])))
        policy = replace(pipeline.policy, rules=rules.rules)
        since = parse_time(str(args.get("since") or "7d"))
        audits = pipeline.audits.query(AuditQuery(since_ns=since, limit=0))
        containers = {w.container.id: w.container for w in pipeline.watched()}
        images = await preview(rules)
        return {**replay(audits, policy, containers).as_dict(), "images": images}

    def copy_to_rule(args: dict[str, Any]) -> dict[str, Any]:
        return rule_of_model(pipeline.models.get(str(args["name"])))

    def session_allow(args: dict[str, Any]) -> dict[str, Any]:
        watched = find_watched(pipeline, str(args["container"]))
        session = pipeline.allow_session(
            watched.container, seconds=float(args["seconds"]), reason=str(args.get("reason") or "")
        )
        return asdict(session)

    def session_end(args: dict[str, Any]) -> dict[str, Any]:
        container = find_watched(pipeline, str(args["container"])).container
        if not pipeline.sessions.reason(container.id):
            raise UsageError(f"container {container.name}: no session is allowed in it")
        return {"killed": pipeline.end_session(container.id, "a person ended it")}

    return {
        "rules.list": listing,
        "rules.explain": tell,
        "rules.test": test,
        "rules.reload": lambda _: reload_all(),
        "models.copy_to_rule": copy_to_rule,
        "session.allow": session_allow,
        "session.end": session_end,
        "session.list": lambda _: [asdict(s) for s in pipeline.sessions.all()],
    }


def find_watched(pipeline: Pipeline, name: str) -> Watched:
    """The container under watch that a person means.

    Args:
        pipeline: the running loop.
        name: a container's name, its id, or the beginning of that.

    Raises:
        UsageError: none, or more than one.
    """
    watched = pipeline.watched()
    exact = [w for w in watched if name in (w.container.name, w.container.id)]
    found = exact or [w for w in watched if name and w.container.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(_called(w.container) for w in found or watched))
    if found:
        raise UsageError(f"container {name!r}: {len(found)} containers fit: {known}")
    raise UsageError(f"container {name!r}: not watched; expected one of: {known or '(none runs)'}")


def _called(container: Container) -> str:
    return container.name or container.short_id


def rule_of_model(model: Model) -> dict[str, Any]:
    """A rule file that allows by name what a model learned, to be edited by a person."""
    programs = {str(key.program.path) for key in model.keys if isinstance(key, ExecKey)}
    writes: dict[tuple[str, str], set[str]] = {}
    for key in model.keys:
        if isinstance(key, WriteKey):
            ways = writes.setdefault((key.pattern, str(key.program)), set())
            ways.add((key.operation.name or "").lower())
    return {
        "version": 1,
        "rules": [
            {
                "name": f"copied from {model.name} {time.strftime('%Y-%m-%d')}"[:80],
                "kind": "container",
                "scope": {"images": [model.image.reference]},
                "processes": {"allow": [{"path": path} for path in sorted(programs)]},
                "filesystem": {
                    "allow": [
                        {"path": path, "by": by, "operations": sorted(ways)}
                        for (path, by), ways in sorted(writes.items())
                    ]
                },
            }
        ],
    }
