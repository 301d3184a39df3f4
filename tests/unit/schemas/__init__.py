"""Trimmed copies of other people's schemas, and checkers for them.

Each file says in ``origin`` what it was taken from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OCSF: dict[str, Any] = json.loads((HERE / "ocsf-1.8.0.json").read_text(encoding="utf-8"))
ECS: dict[str, Any] = json.loads((HERE / "ecs-9.4.json").read_text(encoding="utf-8"))
FALCO: dict[str, Any] = json.loads((HERE / "falco.json").read_text(encoding="utf-8"))

_CLASSES = {2003: "compliance_finding", 2004: "detection_finding"}
_OTHER = 99  # an enum's value whose text is the producer's own


def ocsf_errors(finding: dict[str, Any]) -> list[str]:
    """What is wrong with a finding, by the rules of its class."""
    schema = OCSF["classes"][_CLASSES[finding["class_uid"]]]
    profiles = set(finding.get("metadata", {}).get("profiles", []))
    errors = list(_ocsf_object(finding, schema, profiles, ""))
    if finding.get("metadata", {}).get("version") != OCSF["version"]:
        errors.append("metadata.version: not the schema's")
    if finding["type_uid"] != finding["class_uid"] * 100 + finding["activity_id"]:
        errors.append("type_uid: not class_uid * 100 + activity_id")
    return errors


def _ocsf_object(
    value: dict[str, Any], schema: dict[str, Any], profiles: set[str], where: str
) -> Iterator[str]:
    known = schema["attributes"]
    for name, kind in known.items():
        applies = not kind.get("profiles") or profiles & set(kind["profiles"])
        if kind["requirement"] == "required" and applies and name not in value:
            yield f"{where}{name}: required, missing"
    for rule, names in schema.get("constraints", {}).items():
        given = sum(name in value for name in names)
        if (rule == "at_least_one" and not given) or (rule == "just_one" and given != 1):
            yield f"{where}: {rule} of {names}"
    for name, inner in value.items():
        if name in known:
            yield from _ocsf_attribute(value, name, inner, known[name], profiles, where)
        else:
            yield f"{where}{name}: unknown attribute"


def _ocsf_attribute(  # noqa: PLR0917 - internal, called once
    owner: dict[str, Any],
    name: str,
    value: Any,
    kind: dict[str, Any],
    profiles: set[str],
    where: str,
) -> Iterator[str]:
    if kind.get("profiles") and not profiles & set(kind["profiles"]):
        yield f"{where}{name}: its profile {kind['profiles']} is not named"
    if not kind.get("is_array"):
        yield from _ocsf_value(value, kind, profiles, f"{where}{name}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _ocsf_value(item, kind, profiles, f"{where}{name}[{i}]")
    else:
        yield f"{where}{name}: expected an array"
    sibling = kind.get("sibling")
    if "enum" in kind and sibling in owner and value != _OTHER:
        caption = kind["enum"].get(str(value))
        if owner[sibling] != caption:
            yield f"{where}{sibling}: {owner[sibling]!r} is not {caption!r}"


def _ocsf_value(value: Any, kind: dict[str, Any], profiles: set[str], where: str) -> Iterator[str]:
    if "enum" in kind and str(value) not in kind["enum"]:
        yield f"{where}: {value!r} is not in the enum"
    if kind["type"] == "object_t":
        if not isinstance(value, dict):
            yield f"{where}: expected an object"
        elif kind["object_type"] != "object":  # that one holds anything
            schema = OCSF["objects"].get(kind["object_type"])
            if schema is None:
                yield f"{where}: object {kind['object_type']} is not in the trimmed copy"
            else:
                yield from _ocsf_object(value, schema, profiles, where + ".")
    elif kind["type"] != "json_t":
        yield from _ocsf_scalar(value, kind["type"], where)


def _ocsf_scalar(value: Any, name: str, where: str) -> Iterator[str]:
    kind = OCSF["types"].get(name)
    if kind is None:
        yield f"{where}: type {name} is not in the trimmed copy"
        return
    base = kind.get("type", name)
    python: dict[str, type] = {
        "string_t": str,
        "integer_t": int,
        "long_t": int,
        "boolean_t": bool,
        "float_t": float,
    }
    if not isinstance(value, python[base]) or (base != "boolean_t" and isinstance(value, bool)):
        yield f"{where}: {value!r} is no {base}"
    elif "regex" in kind and not re.search(kind["regex"], str(value)):
        yield f"{where}: {value!r} is no {name}"


def ecs_errors(document: dict[str, Any], own: str) -> list[str]:
    """What is wrong with an ECS document.

    Args:
        document: nested.
        own: name of the top-level object that is ours alone.
    """
    fields = ECS["fields"]
    errors = []
    flat = dict(_flat({name: v for name, v in document.items() if name != own}, ""))
    for name, value in flat.items():
        kind = fields.get(name)
        if kind is None:
            errors.append(f"{name}: no field of ECS")
            continue
        if isinstance(value, list) != kind.get("array", False):
            errors.append(f"{name}: array or not: {value!r}")
        for item in value if isinstance(value, list) else [value]:
            errors.extend(_ecs_value(name, item, kind))
    expected = {
        kind
        for category in flat.get("event.category", [])
        for kind in fields["event.category"]["types"].get(category, [])
    }
    errors.extend(
        f"event.type: {kind} is not expected with {flat['event.category']}"
        for kind in flat["event.type"]
        if kind not in expected
    )
    errors.extend(
        f"{name}: missing" for name in ("@timestamp", "ecs.version") if not flat.get(name)
    )
    return errors


def _flat(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, inner


def _ecs_value(name: str, value: Any, kind: dict[str, Any]) -> Iterator[str]:
    types: dict[str, type] = {"long": int, "float": float, "boolean": bool}
    if not isinstance(value, types.get(kind["type"], str)) or (
        kind["type"] == "long" and isinstance(value, bool)
    ):
        yield f"{name}: {value!r} is no {kind['type']}"
    elif kind["type"] == "date" and not re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d+Z", str(value)):
        yield f"{name}: {value!r} is no date"
    if "allowed" in kind and value not in kind["allowed"]:
        yield f"{name}: {value!r} is not allowed"


def falco_errors(alert: dict[str, Any], own: str) -> list[str]:
    """What is wrong with an alert in Falco's form.

    Args:
        alert: one JSON object.
        own: how the names of fields begin that are ours alone.
    """
    errors = [f"{name}: missing" for name in FALCO["required"] if alert.get(name) in (None, "", {})]
    for name, value in alert.items():
        if name not in FALCO["properties"]:
            errors.append(f"{name}: not of Falco's output")
        elif not isinstance(value, _FALCO_TYPES[FALCO["properties"][name]]):
            errors.append(f"{name}: {value!r} is no {FALCO['properties'][name]}")
    for name, value in alert["output_fields"].items():
        errors.extend(_falco_field(name, value, own))
    if alert["priority"] not in FALCO["priorities"]:
        errors.append(f"priority: {alert['priority']!r}")
    if not all(isinstance(tag, str) for tag in alert["tags"]):
        errors.append("tags: not all are texts")
    if alert["tags"] != sorted(set(alert["tags"])):
        errors.append("tags: Falco's are a set in order")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", alert["time"]):
        errors.append(f"time: {alert['time']!r}")
    return errors


_FALCO_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
}


def _falco_field(name: str, value: Any, own: str) -> Iterator[str]:
    if name.startswith(own):
        if not isinstance(value, str | int):
            yield f"{name}: {value!r} is no plain value"
    elif name not in FALCO["fields"]:
        yield f"{name}: no field of Falco's"
    elif type(value) is not _FALCO_TYPES[FALCO["fields"][name]]:
        yield f"{name}: {value!r} is no {FALCO['fields'][name]}"
