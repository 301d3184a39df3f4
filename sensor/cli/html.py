"""What pages for a browser have in common: nothing is loaded from elsewhere, nothing is executed.

Names come from containers, and whoever is in one chooses them: each goes through ``text``.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from sensor.audits.formats import escape

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2430; background: #fff }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #cdd5df }
table { border-collapse: collapse; font-size: 14px }
td, th { text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: top }
th { color: #5a6675; font-weight: 600 }
tr:nth-child(even) td { background: #f5f7fa }
code, .tree { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere }
.tree ul { list-style: none; margin: 0; padding-left: 1.4rem; border-left: 1px solid #dfe5ec }
.tree > ul { border: 0; padding: 0 }
small, .quiet { color: #5a6675 }
.sentence { font-size: 1.15rem }
svg { max-width: 100%; height: auto }
"""


def text(value: str) -> str:
    """A text as it may stand in a page and in an attribute."""
    return html.escape(escape(value), quote=True)


def head(title: str, style: str = "") -> Iterator[str]:
    """The beginning of a page, with the body open.

    Args:
        title: plain text.
        style: beyond what all pages have.
    """
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield (
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{text(title)}</title><style>{STYLE}{style}</style></head><body>"


def table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table; cells are markup already."""
    yield "<table><tr>" + "".join(f"<th>{name}</th>" for name in columns) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    yield "</table>"
