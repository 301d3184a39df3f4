"""docs/learning.md: its tables are made by scripts/soak, its words by people."""

from __future__ import annotations

from pathlib import Path

from sensor.errors import BadInputError

PAGE = Path(__file__).parents[2] / "docs/learning.md"


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises:
        BadInputError: the page or the marks are not there.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    try:
        content = page.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{page}: {error.strerror}") from error
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise BadInputError(f"{page}: expected {begin} and, below it, {end}")
    page.write_text(f"{before}{begin}\n{text.rstrip()}\n{end}{after}", encoding="utf-8")
