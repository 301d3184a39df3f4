"""Templates of webhooks: plain values whose texts hold ``{{macros}}``.

A template is a value, not a text: what a container chose is put into it as a value and can neither
end a string nor add a field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from sensor.yamlfiles import nearest

MACROS = (
    "time", "last_time", "severity", "type", "sensor", "container", "container_id", "image", "host",
    "namespace", "pod", "rule", "action", "outcome", "program", "path", "message", "text", "count",
    "id", "ids", "kind", "audit",
)  # fmt: skip
_MACRO = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


def check_template(template: Any) -> None:
    """See that every macro is known.

    Raises:
        ValueError: naming the one that is not.
    """
    if isinstance(template, str):
        for name in _MACRO.findall(template):
            if name not in MACROS:
                known = nearest(name, MACROS) or f"; expected one of {', '.join(MACROS)}"
                raise ValueError(f"unknown macro {{{{{name[:40]}}}}}{known}")
    elif isinstance(template, Mapping):
        for value in template.values():
            check_template(value)
    elif isinstance(template, list):
        for value in template:
            check_template(value)


def fill(template: Any, facts: Mapping[str, Any]) -> Any:
    """The template with its macros filled in.

    Args:
        template: a checked one.
        facts: a value for each of MACROS. A text that is one macro becomes the value itself, a
            number or a map; within other text it is written out.
    """
    if isinstance(template, str):
        whole = _MACRO.fullmatch(template)
        if whole:
            return facts[whole.group(1)]
        return _MACRO.sub(lambda match: _text(facts[match.group(1)]), template)
    if isinstance(template, Mapping):
        return {key: fill(value, facts) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, facts) for value in template]
    return template


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
