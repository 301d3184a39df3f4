"""`rote status`: how the sensor is."""

from __future__ import annotations

import time
from typing import Any

import click

from sensor.cli.output import duration, emit_json, emit_lines, megabytes, output_option


@click.command()
@output_option
@click.pass_obj
def status(context: Any, /, output: str) -> None:
    """Show containers, model states, events, losses, memory, attachment and guarantee.

    \b
    Example:
      rote status --output json
    """
    found = context.client.ask("status")
    if output == "json":
        emit_json(found)
    elif output == "jsonl":
        emit_lines([found])
    else:
        for line in _lines(found):
            click.echo(line)


def _lines(found: dict[str, Any]) -> list[str]:
    attachment, kernel, numbers = found["attachment"], found["kernel"], found["statistics"]
    models = ", ".join(f"{count} {state}" for state, count in found["models"].items())
    errors = ", ".join(f"{count} {cause}" for cause, count in kernel["errors"].items() if count)
    up = duration(time.time() - numbers["started_at"])
    taken = ", taken over" if attachment["reused"] else ""
    lines = [
        f"rote {found['version']} on {found['host']}, pid {found['pid']}, up {up}, "
        + megabytes(found["memory_bytes"]),
        f"kernel      {attachment['mode']}, {len(attachment['hooks'])} hooks{taken}; "
        + f"guarantee: {attachment['guarantee']} executions, "
        + f"{attachment['guarantee_files']} changes of files",
    ]
    lines.extend(f"  missing   {hook}: {why}" for hook, why in attachment["missing"])
    lines.extend(f"  not used  {note}" for note in attachment["notes"])
    lines += [
        f"containers  {found['containers']} watched",
        _prevention(found["prevention"]),
        *_rules(found["rules"]),
        *_responses(found["responses"]),
        *_images(found["images"]),
        *_gates(found["gates"]),
        f"models      {models or 'none yet'}",
        f"in kernel   {kernel['known']} known and silent, {kernel['events']} handed over, "
        f"{kernel['lost']} lost, {kernel['truncated']} with cut paths"
        + (f"; errors: {errors}" if errors else ""),
        f"since start {numbers['events']} events ({numbers['executions']} executions, "
        + f"{numbers['changes']} changes), {numbers['novel']} novel, "
        + f"{numbers['learned']} keys learned, {numbers['audits']} audits",
    ]
    if found["waiting"] or found["given_up"]:
        lines.append(
            f"waiting     {found['waiting']} events for their container's identity, "
            f"{found['given_up']} given up"
        )
    pending, dropped = found["audits"]["pending"], found["audits"]["dropped"]
    if pending or dropped:
        lines.append(f"audits      {pending} wait for the store, {dropped} dropped")
    for runtime in found["runtimes"]:
        state = runtime["version"] if runtime["available"] else f"not there: {runtime['error']}"
        lines.append(f"runtime     {runtime['name']} {runtime['address']}: {state}")
    for channel in found["channels"]:
        lines.append(
            f"channel     {channel['name']}: {channel['sent']} sent, {channel['failed']} failed, "
            f"{channel['dropped']} dropped"
        )
    return lines


def _rules(found: dict[str, Any]) -> list[str]:
    lines = [f"rules       {found['count']} from {found['path']}, then default"]
    if found["error"]:
        lines.append(f"  NOT HELD  {found['error']}")
    return lines


def _responses(found: dict[str, Any]) -> list[str]:
    """Only what a person should know of."""
    parts = [
        f"{found[name]} {what}"
        for name, what in (
            ("blocked", "blocked (rote blocked list)"),
            ("quarantined", "in quarantine (rote quarantined)"),
            ("sessions", "allowed sessions (rote session list)"),
            ("evidence", "packs of evidence (rote evidence list)"),
        )
        if found[name]
    ]
    return [f"responses   {', '.join(parts)}"] if parts else []


def _images(found: dict[str, Any]) -> list[str]:
    counts = ", ".join(
        f"{found[name]} {what}"
        for name, what in (
            ("judged", "judged"),
            ("refused", "starts refused"),
            ("blocked", "blocked after their start"),
            ("failed", "could not be judged"),
        )
        if found[name] or name == "judged"
    )
    feeds = f"{found['feeds']} feeds" if found["feeds"] else "no advisories (rote vulns update)"
    lines = [f"images      {counts}; {feeds}"]
    if found["stale_feeds"]:
        lines.append(f"  STALE     {', '.join(found['stale_feeds'])}: rote vulns status")
    if found["update_error"]:
        lines.append(f"  NOT UPDATED  {found['update_error']}")
    if found["last_error"]:
        lines.append(f"  last error  {found['last_error']}")
    return lines


def _gates(found: dict[str, Any]) -> list[str]:
    """How starts are held, and what came of it."""
    lines = [f"gates       NOT READABLE: {found['problem']}"] if found["problem"] else []
    lines.extend(
        f"gate        {entry['gate']}: {entry['file']} ({entry['program']})"
        for entry in found["installed"]
    )
    if found["fanotify"]:
        lines.append(_fanotify(found["fanotify"]))
    if found["asked"] or lines:
        lines.append(
            f"starts      {found['asked']} held, {found['allowed']} allowed, "
            f"{found['refused']} refused, {found['undecided']} undecided, {found['held']} wait now"
        )
    return lines or ["gates       none installed: starts are not held (rote gate install)"]


def _fanotify(found: dict[str, Any]) -> str:
    """The gate that is configured nowhere: where, and what it did."""
    where = ", ".join(found["directories"]) or "no containerd found yet"
    line = f"gate        fanotify: {'on' if found['state'] == 'on' else 'OFF'}, {where}"
    counts = ("injected", "denied", "late", "missed")
    told = [f"{found[name]} {name}" for name in counts if found.get(name)]
    if found["restarts"]:
        told.append(f"{found['restarts']} restarts")
    line += "".join(f", {text}" for text in told)
    return f"{line}; {found['problem']}" if found["problem"] else line


def _prevention(found: dict[str, Any]) -> str:
    if not found["globs"] and not found["refusing_rules"]:
        return "prevention  off: deviations are alerts"
    asked = [*found["globs"], *(f"rule {name}" for name in found["refusing_rules"])]
    line = (
        f"prevention  {found['containers']} containers ({', '.join(asked)}), "
        f"{found['refused']} refused, {found['suppressed']} of them not told one by one; "
        f"on error: {found['on_error']}"
    )
    if found["write_probe"]:
        line += f"; each write is judged ({found['holding']} containers hold old descriptors)"
    if found["failed"]:
        line += "; PROTECTION FAILED: " + ", ".join(found["failed"])
    elif found["proved_at"]:
        line += f"; tried {duration(time.time() - found['proved_at'])} ago: it holds"
    return line
