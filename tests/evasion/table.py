"""Turn the suite's results into docs/evasions.md.

    python -m tests.evasion.table RESULT.json … >docs/evasions.md

A result is what one run of tests/evasion wrote (evasion.json in $ROTE_TEST_RESULTS).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

_HEAD = """\
# What was tried to get round prevention

Each row of [tests/evasion/cases.py](../tests/evasion/cases.py) is one technique, done by a small
program in a container under prevention: once, then ten times in a row from four processes at
once. The suite looks at the effect itself (file content, what ran), at the errno and at the audit;
it does the same without prevention first, where it has to work. This page is made from such runs
by `tests/evasion/table.py`; `scripts/vm all` repeats them.

* **refused**: EPERM, before anything happened. **killed**: the process was ended before its first
  instruction, or before its first byte was written. **detected**: it happened and was audited.
  **missed**: it happened and nobody was told. **impossible**: it does not work on that kernel
  without Rote either.

"""
# Why the tracepoint attachment does not refuse, by the beginning of a technique's name.
_REASONS = (
    ("n_uring", "io_uring does it without a system call that ends"),
    ("w_uring", "io_uring does it without a system call that ends"),
    ("h_uring", "io_uring does it without a system call that ends"),
    ("x_exec", "a script is judged by its name, when its interpreter runs already"),
    ("x_map_later", "mprotect names no file"),
    ("a_flags", "the ioctl is not looked at"),
    ("t_", "takes no path and no descriptor of a file"),
    ("n_", "judged when the system call has ended"),
    ("a_", "judged when the system call has ended"),
    ("m_", "judged when the system call has ended"),
    ("h_", "a write is over when its system call is seen to end"),
    ("s_", "a write is over when its system call is seen to end"),
    ("w_", "the file is open, created or emptied when the system call is seen to end"),
)


def main() -> None:
    """Print the page."""
    results: list[dict[str, Any]] = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    titles = [f"{r['kernel'].split('-')[0].split('+')[0]} {r['attachment']}" for r in results]
    groups = list(dict.fromkeys(row["group"] for result in results for row in result["rows"]))
    out = sys.stdout.write
    out(_HEAD)
    out("| | " + " | ".join(titles) + " |\n|---" + "|---" * len(titles) + "|\n")
    for group in [*groups, ""]:
        cells = []
        for result in results:
            rows = [row for row in result["rows"] if group in ("", row["group"])]
            counted = Counter(row["verdict"] for row in rows)
            cells.append(", ".join(f"{n} {verdict}" for verdict, n in counted.most_common()))
        out(f"| {group or '**all**'} | " + " | ".join(cells) + " |\n")
    tries = [f"{sum(row['tries'] for row in result['rows']):,}" for result in results]
    out("| tries | " + " | ".join(tries) + " |\n\n")
    for title, result in zip(titles, results, strict=True):
        _not_refused(title, result)


def _not_refused(title: str, result: dict[str, Any]) -> None:
    out = sys.stdout.write
    rows = [row for row in result["rows"] if row["verdict"] not in ("refused", "killed")]
    if not rows:
        return
    out(f"## {title}: neither refused nor killed\n\n| technique | | why |\n|---|---|---|\n")
    for row in rows:
        out(f"| {row['name']} ({row['source']}) | {row['verdict']} | {_reason(row)} |\n")
    out("\n")


def _reason(row: dict[str, Any]) -> str:
    if row["verdict"] == "impossible":
        return str(row["impossible"])
    technique = str(row["technique"])
    return next((why for begin, why in _REASONS if technique.startswith(begin)), "")


if __name__ == "__main__":
    main()
