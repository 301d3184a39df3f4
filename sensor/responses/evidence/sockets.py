"""The sockets of a network namespace, read through one of its processes.

Source: proc_pid_net(5), Documentation/networking/proc_net_tcp.rst, net/unix/af_unix.c.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path
from typing import Any

_TCP_STATES = (
    "", "established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait", "close",
    "close-wait", "last-ack", "listen", "closing", "new-syn-recv",
)  # fmt: skip
_UNIX_TYPES = {1: "stream", 2: "datagram", 5: "seqpacket"}
_UNIX_STATES = {1: "unconnected", 2: "connecting", 3: "connected", 4: "disconnecting"}
_UNIX_LISTENS = 1 << 16  # SO_ACCEPTCON
INTERNET = ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6")
_BYTES_MAX = 16 << 20  # of one table


def read_sockets(directory: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """All sockets below /proc/PID/net, and what could not be read.

    Each has ``protocol`` and ``inode``; internet ones ``local`` and ``remote`` as address:port,
    Unix ones ``path``.
    """
    found: list[dict[str, Any]] = []
    problems = []
    for name in (*INTERNET, "unix", "packet", "netlink"):
        try:
            with (directory / name).open("rb") as file:
                text = file.read(_BYTES_MAX).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            continue  # this kernel has no such protocol
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
            continue
        if len(text) >= _BYTES_MAX:
            problems.append(f"{name}: more than {_BYTES_MAX} bytes")
        for line in text.splitlines()[1:]:
            try:
                found.append(_socket(name, line))
            except (ValueError, IndexError, struct.error):
                problems.append(f"{name}: a line of unknown form")
    return found, problems


def _socket(name: str, line: str) -> dict[str, Any]:
    if name == "unix":
        return _unix(line)
    fields = line.split()
    if name == "packet":
        return {
            "protocol": name,
            "inode": int(fields[8]),
            "type": int(fields[2]),
            "interface": int(fields[4]),
        }
    if name == "netlink":
        return {"protocol": name, "inode": int(fields[9]), "family": int(fields[1])}
    sent, _, waiting = fields[4].partition(":")
    state = int(fields[3], 16)
    return {
        "protocol": name,
        "inode": int(fields[9]),
        "local": address(fields[1]),
        "remote": address(fields[2]),
        "state": _TCP_STATES[state] if name.startswith("tcp") else _datagram_state(state),
        "uid": int(fields[7]),
        "send_queue": int(sent, 16),
        "receive_queue": int(waiting, 16),
    }


def _datagram_state(state: int) -> str:
    return "connected" if state == 1 else "bound"


def _unix(line: str) -> dict[str, Any]:
    fields = line.split(" ", 1)[1].split()
    flags, kind, state, inode = (
        int(fields[2], 16),
        int(fields[3], 16),
        int(fields[4], 16),
        int(fields[5]),
    )
    # The path may hold spaces.
    path = line.split(f" {fields[5]} ", 1)[1] if len(fields) > 6 else ""
    return {
        "protocol": "unix",
        "inode": inode,
        "type": _UNIX_TYPES.get(kind, str(kind)),
        "state": "listen" if flags & _UNIX_LISTENS else _UNIX_STATES.get(state, str(state)),
        "path": path,
    }


def address(text: str) -> str:
    """An address as people write it: 0100007F:0050 is 127.0.0.1:80.

    Words are in the order of this machine's bytes.
    """
    host, _, port = text.partition(":")
    words = [int(host[i : i + 8], 16) for i in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    found = ipaddress.ip_address(packed)
    shown = f"[{found}]" if found.version == 6 else str(found)
    return f"{shown}:{int(port, 16)}"
