"""A pack of evidence as a page for a person. Whatever a container chose is escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from sensor.audits.formats import escape, when
from sensor.cli.output import duration, table_lines

_ROWS_MAX = 40
_ARGUMENTS_MAX = 100  # characters of a command line
_QUIET = ("netlink", "packet")


def page(manifest: dict[str, Any], read: Callable[[str], bytes]) -> str:
    """The page.

    Args:
        manifest: of the pack.
        read: the content of a member; empty when there is none.
    """
    lines = [*_head(manifest)]
    for title, section in (
        ("processes", _processes(_rows(read("processes.jsonl")))),
        ("sockets", _sockets(_rows(read("sockets.jsonl")))),
        ("changed files", _changes(_rows(read("changes.jsonl")))),
        ("audits", _audits(_rows(read("audits.jsonl")))),
    ):
        found = list(section)
        lines += ["", f"  {title}", *(f"    {line}" for line in found or ["none"])]
    lines += ["", "  parts", *(f"    {line}" for line in _parts(manifest))]
    return "\n".join(lines)


def _rows(data: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in data.splitlines() if line]


def _head(manifest: dict[str, Any]) -> Iterator[str]:
    container = manifest.get("container") or {}
    partial = "   PARTIAL" if manifest.get("partial") else ""
    yield f"Evidence {manifest.get('id', '')}{partial}   {when(int(manifest['time'] * 1e9))}"
    name = container.get("name") or str(container.get("id", ""))[:12]
    yield f"  Container {escape(str(name))} ({escape(str(container.get('image', '')))})"
    yield ""
    for title, value in (
        ("why", manifest.get("reason", "")),
        ("rule", manifest.get("rule", "")),
        ("audits", ", ".join(map(str, manifest.get("audits", [])))),
        ("container", container.get("id", "")),
        ("runtime", container.get("runtime", "")),
        ("pod", "/".join(filter(None, (container.get("namespace"), container.get("pod"))))),
        ("host", f"{manifest.get('host', '')}, kernel {manifest.get('kernel', '')}"),
        ("took", duration(float(manifest.get("seconds", 0)))),
    ):
        if value:
            yield f"  {title:<10} {escape(str(value))}"
    for line in manifest.get("missing", []):
        yield f"  missing    {escape(line)}"
    for line in manifest.get("limits_hit", []):
        yield f"  left out   {escape(line)}"


def _processes(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The tree. Whose parent is not among them is a root of it."""
    known = {row["pid"] for row in rows}
    children: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        parent = row["parent"] if row["parent"] in known and row["parent"] != row["pid"] else 0
        children.setdefault(parent, []).append(row)
    pending = [(row, "", "", "") for row in reversed(children.get(0, []))]
    while pending:
        row, before, branch, below = pending.pop()
        yield before + branch + _process(row)
        for line in _unusual(row):
            yield before + below + "  " + line
        inner = children.get(row["pid"], [])
        for number, child in enumerate(reversed(inner)):
            last = number == 0
            pending.append(
                (child, before + below, "└─ " if last else "├─ ", "   " if last else "│  ")
            )


def _process(row: dict[str, Any]) -> str:
    command = " ".join(map(str, row["argv"])) or f"[{row['name']}]"
    command = escape(command)
    if len(command) > _ARGUMENTS_MAX:
        command = command[: _ARGUMENTS_MAX - 1] + "…"
    user = row["user"] or str(row["uids"][1])
    inner = f" ({row['pids'][-1]} inside)" if len(row["pids"]) > 1 else ""
    return f"{row['pid']}{inner} {escape(user)}: {command}"


def _unusual(row: dict[str, Any]) -> Iterator[str]:
    """What a person should not overlook about a process."""
    program = row["program"]
    if program.get("origin") not in (None, "image", "unknown"):
        yield f"! program {escape(program['path'])} is {_origin(program['origin'])}{_kept(program)}"
    for mapping in row["mappings"]:
        if mapping.get("path") == program["path"]:
            continue
        what = escape(mapping["path"]) or "memory without a file"
        yield f"! executes {what} at {mapping['at']}, {_origin(mapping['origin'])}{_kept(mapping)}"
    for file in row["files"]:
        if file.get("origin") == "memory":
            yield f"! holds {escape(file['target'])} as {file['fd']}{_kept(file)}"


def _origin(origin: str) -> str:
    return {
        "added": "not the image's: added or changed",
        "memory": "in memory only",
        "tmpfs": "on a tmpfs",
        "mount": "on a volume",
    }.get(origin, origin)


def _kept(what: dict[str, Any]) -> str:
    return f", kept as {what['member']}" if what.get("member") else ""


def _sockets(rows: list[dict[str, Any]]) -> Iterator[str]:
    shown = []
    for row in rows:
        if row["protocol"] in _QUIET or (row["protocol"] == "unix" and not row["holders"]):
            continue
        holders = " ".join(f"{holder['pid']}:{holder['fd']}" for holder in row["holders"])
        ends = row.get("local", escape(row.get("path", ""))), row.get("remote", "")
        shown.append((row["protocol"], *ends, row.get("state", ""), holders))
    if shown:
        yield from table_lines(("protocol", "local", "remote", "state", "process:fd"), shown)
    if quiet := len(rows) - len(shown):
        yield f"and {quiet} that nobody holds or that carry no traffic"


def _changes(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Programs first, then the newest; directories only say that something in them changed."""
    found = [row for row in rows if row["kind"] != "directory"]
    found.sort(key=lambda row: (not int(row.get("mode", "0"), 8) & 0o111, -row.get("mtime_ns", 0)))
    yield from table_lines(
        ("change", "path", "size", "owner", "mode", "sha256"),
        [
            (
                row["change"],
                escape(row["path"]) + (f" → {escape(row['target'])}" if "target" in row else ""),
                str(row.get("size", "")),
                f"{row['uid']}:{row['gid']}" if "uid" in row else "",
                row.get("mode", ""),
                row.get("sha256", "")[:16] or escape(row.get("remark", row["kind"])),
            )
            for row in found[:_ROWS_MAX]
        ],
    )
    if len(found) > _ROWS_MAX:
        yield f"and {len(found) - _ROWS_MAX} more in changes.jsonl"


def _audits(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows[-_ROWS_MAX:]:
        what = row.get("path") or row.get("program", "")
        yield f"{row.get('id')} {row.get('time')} {row.get('severity')} {row.get('type')} {what}"
    if len(rows) > _ROWS_MAX:
        yield f"and {len(rows) - _ROWS_MAX} earlier ones in audits.jsonl"


def _parts(manifest: dict[str, Any]) -> Iterator[str]:
    for part in manifest["parts"]:
        counts = ", ".join(f"{number} {what}" for what, number in part["counts"].items())
        yield f"{part['name']:<22} {part['result']:<8} {part['seconds']:7.2f} s  {counts}".rstrip()
