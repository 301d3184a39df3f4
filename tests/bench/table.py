"""Turn the benchmark's results into docs/cost.md; see scripts/bench."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_HEAD = """\
# What Rote costs

`scripts/bench cost --write` made this page: Debian's kernel {kernel}, {date}. Each figure is the
number of instructions that one operation takes, the kernel's included, counted in a virtual
machine in which a nanosecond is an instruction; repeats agree within about 0.3 %. It is not time:
there is no model of caches or branches. The first line is the operation without anything loaded,
all others are ratios to it.

"""
_NAMES = {
    "exec-static": "fork, exec (static), exit",
    "exec-dynamic": "fork, exec (dynamic), exit",
    "write-tmpfs-1": "write 1 byte, tmpfs",
    "write-tmpfs-4096": "write 4 KiB, tmpfs",
    "write-ext4-1": "write 1 byte, ext4",
    "write-ext4-4096": "write 4 KiB, ext4",
    "write-null": "write 1 byte, /dev/null",
    "create-tmpfs": "create, write, close, unlink, tmpfs",
    "create-ext4": "create, write, close, unlink, ext4",
    "rename-tmpfs": "rename, tmpfs",
    "rename-ext4": "rename, ext4",
    "open-read": "open for reading, close",
    "open-write": "open for writing, close",
}
_SITUATIONS = {
    "nothing": "nothing loaded",
    "nothing, again": "nothing, measured again",
    "empty programs": "empty programs on the hooks that Rote uses",
    "empty programs, each write": "the same, and on each write",
    "loaded, nothing watched": "Rote, no container",
    "outside, one cgroup watched": "Rote, a container elsewhere",
    "cgroups: 100, outside": "Rote, 100 containers elsewhere",
    "inside, alert": "**Rote, inside, alert**",
    "inside, prevent": "**Rote, inside, prevent** (14 keys)",
    "keys: 1000": "Rote, inside, prevent, 1,000 keys",
    "keys: 100000": "Rote, inside, prevent, 100,000 keys",
    "cgroups: 100": "Rote, inside, prevent, 100 containers",
    "probe: outside": "Rote, per-write probe attached, outside",
    "probe: inside, prevent": "Rote, per-write probe attached, inside",
    "auditd": "auditd, a rule on execve",
    "fapolicyd": "fapolicyd",
    "AppArmor, no profile": "AppArmor in the kernel, no profile",
    "AppArmor": "AppArmor, a profile enforced",
}


def main() -> None:
    """Print the page."""
    reports: list[dict[str, Any]] = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    situations: dict[str, dict[str, float]] = {}
    for report in reports:
        situations.update(report["situations"])
    base = situations["nothing"]
    operations = [name for name in _NAMES if name in base]
    out = sys.stdout.write
    out(_HEAD.format(kernel=reports[0]["kernel"], date=reports[0]["date"]))
    for part in (operations[:7], operations[7:]):
        out("| | " + " | ".join(_NAMES[name] for name in part) + " |\n")
        out("|---" * (len(part) + 1) + "|\n")
        out("| nothing loaded | " + " | ".join(f"{base[name]:,.0f}" for name in part) + " |\n")
        for situation, title in _SITUATIONS.items():
            if situation == "nothing" or situation not in situations:
                continue
            costs = situations[situation]
            out(f"| {title} | " + " | ".join(f"{costs[n] / base[n]:.3f}" for n in part) + " |\n")
        out("\n")
    tail = Path(__file__).with_name("cost-notes.md")
    out(tail.read_text())


if __name__ == "__main__":
    main()
