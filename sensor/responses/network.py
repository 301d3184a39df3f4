"""What quarantine does to a container's links. The only code that knows pyroute2.

It runs as a process of its own, ``python -m sensor.responses.network``, so that entering another
network namespace, a kernel that does not answer, and pyroute2's memory stay out of the daemon. It
reads requests and writes answers as JSON lines::

    {"do": "look", "netns": FD}      → {"links": […], "netns": INODE}
    {"do": "cut", "mode": "drop"}    → {"mode": "drop", "notes": […]}   the links just looked at
    {"do": "restore", "netns": FD or -1, "mode": …, "links": […]} → {"notes": […]}
    anything that fails              → {"error": "one line"}

Where a link's other end lies in the host's namespace (veth: Docker, Podman, most of Kubernetes),
only that end is touched. The container cannot undo that, whatever capabilities it has, and loses
neither addresses nor routes, so there is nothing to restore but the link. Other links are taken
down inside.

Source: rtnetlink(7), nft's netdev family (Linux 4.2), sch_fifo.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import orjson
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, sched.h
_UP = 1  # IFF_UP
_LOCAL_TABLE = 255
_UNICAST = 1  # RTN_UNICAST
_LINK_SCOPE = 253
_NETDEV = 5  # NFPROTO_NETDEV
_FIRST = -500  # before every other chain
_ADDRESS_FLAGS = 0x02 | 0x200  # IFA_F_NODAD, IFA_F_NOPREFIXROUTE
_ROUTE_ATTRIBUTES = {
    "RTA_GATEWAY": "gateway", "RTA_OIF": "oif", "RTA_PREFSRC": "prefsrc", "RTA_TABLE": "table",
    "RTA_PRIORITY": "priority",
}  # fmt: skip
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH)
_QDISC_MISSING = (errno.ENOENT, errno.EINVAL)

Link = dict[str, Any]


class Refused(Exception):  # noqa: N818 - it reads as what happens
    """This must not, or cannot, be done; holds one line."""


class Network:
    """A container's network namespace, seen from inside and from the host.

    Args:
        descriptor: of the namespace (/proc/PID/ns/net); -1: there is none any more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._host = IPRoute()
        self._inside: IPRoute | None = None
        if descriptor >= 0:
            if os.fstat(descriptor).st_ino == os.stat("/proc/self/ns/net").st_ino:  # noqa: PTH116
                raise Refused("it shares the host's network (--network host)")
            home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(descriptor)
                self._inside = IPRoute()  # a socket stays in the namespace it was made in
            finally:
                _enter(home)
                os.close(home)

    def look(self) -> list[Link]:
        """The links that are up, without the loopback, and what taking them down would lose."""
        assert self._inside is not None
        namespace = self._host.get_netnsid(fd=self._descriptor)["nsid"]
        ends = {
            link["index"]: link
            for link in self._host.get_links()
            if _kind(link) == "veth" and link.get_attr("IFLA_LINK_NETNSID") == namespace
        }
        found: list[Link] = []
        for link in self._inside.get_links():
            name = link.get_attr("IFLA_IFNAME")
            if name == "lo" or not link["flags"] & _UP:
                continue
            values: Link = {"index": link["index"], "name": name, "end": None}
            end = ends.get(link.get_attr("IFLA_LINK")) if _kind(link) == "veth" else None
            if end is not None and end.get_attr("IFLA_LINK") == link["index"]:
                values["end"] = _identity(end)
                values["end_up"] = bool(end["flags"] & _UP)
            else:
                values["addresses"] = self._addresses(link["index"])
                values["routes"] = self._routes(link["index"])
            found.append(values)
        return found

    def _addresses(self, index: int) -> list[dict[str, Any]]:
        assert self._inside is not None
        return [
            {
                "family": address["family"],
                "address": address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"),
                "prefixlen": address["prefixlen"],
                "flags": (address.get_attr("IFA_FLAGS") or 0) & _ADDRESS_FLAGS,
            }
            for address in self._inside.get_addr(index=index)
            if address["scope"] != _LINK_SCOPE  # the kernel gives those by itself
        ]

    def _routes(self, index: int) -> list[dict[str, Any]]:
        assert self._inside is not None
        found = []
        for route in self._inside.get_routes():
            if route.get_attr("RTA_OIF") != index or route["type"] != _UNICAST:
                continue
            if route.get_attr("RTA_TABLE") == _LOCAL_TABLE:
                continue
            values = {"family": route["family"], "scope": route["scope"], "proto": route["proto"]}
            target = route.get_attr("RTA_DST")
            values["dst"] = f"{target}/{route['dst_len']}" if target else "default"
            for attribute, name in _ROUTE_ATTRIBUTES.items():
                if (value := route.get_attr(attribute)) is not None:
                    values[name] = value
            found.append(values)
        # What is on the link first: a gateway must be reachable when its route is added.
        return sorted(found, key=lambda values: "gateway" in values)

    def cut(self, mode: str, links: list[Link]) -> tuple[str, list[str]]:
        """Cut the links off; the mode that was used, and remarks."""
        if mode == "drop":
            alone = [link["name"] for link in links if link["end"] is None]
            if not alone:
                try:
                    for link in links:
                        self._drop(link["end"])
                except NetlinkError as error:
                    self._pass(links)
                    note = f"dropping is not possible here ({_text(error)}): links down instead"
                else:
                    return "drop", []
            else:
                note = f"{', '.join(alone)}: no end on the host to drop at: links down instead"
        else:
            note = ""
        for link in links:
            self._down(link)
        return "links", [note] if note else []

    def _down(self, link: Link) -> None:
        if link["end"] is not None:
            self._host.link("set", index=link["end"]["index"], state="down")
        else:
            assert self._inside is not None
            self._inside.link("set", index=link["index"], state="down")

    def _drop(self, end: Link) -> None:
        """Drop what comes from the container at the first moment, and what goes to it at the last.

        Packets from a raw socket pass here as well, which netfilter inside would not see.
        """
        table = _table(end)
        hook = [
            ["NFTA_HOOK_HOOKNUM", 0],  # ingress
            ["NFTA_HOOK_PRIORITY", _FIRST],
            ["NFTA_HOOK_DEV", end["name"]],
        ]
        with _filters() as filters:
            with _ignoring(errno.ENOENT):
                filters.table("del", name=table)
            filters.table("add", name=table)
            filters.chain(
                "add", table=table, name="all", type="filter", policy=0,
                NFTA_CHAIN_HOOK={"attrs": hook},
            )  # fmt: skip
        # A queue that holds nothing. It needs no module, and no filter.
        self._host.tc("replace", "pfifo", end["index"], "1:", limit=0)

    def _pass(self, links: list[Link]) -> list[str]:
        """Undo ``_drop``."""
        notes: list[str] = []
        for link in links:
            end = link["end"]
            with _filters() as filters, _ignoring(errno.ENOENT, errno.EOPNOTSUPP):
                filters.table("del", name=_table(end))
            if not self._is_there(end):
                notes.append(f"{end['name']}: the link is gone")
                continue
            with _ignoring(*_QDISC_MISSING, *_GONE):
                self._host.tc("del", index=end["index"], root=True)
        return notes

    def restore(self, mode: str, links: list[Link]) -> list[str]:
        """Undo ``cut``; remarks about what is gone."""
        if mode == "drop":
            return self._pass(links)
        notes: list[str] = []
        for link in links:
            end = link["end"]
            if end is not None and not self._is_there(end):
                notes.append(f"{end['name']}: the link is gone")
            elif end is not None:
                if link["end_up"]:
                    self._host.link("set", index=end["index"], state="up")
            elif self._inside is None:
                notes.append(f"{link['name']}: its network is gone")
            else:
                notes.extend(self._up(link))
        return notes

    def _is_there(self, end: Link) -> bool:
        """Whether it is that link still: numbers are given out again."""
        with contextlib.suppress(NetlinkError):
            return any(_identity(link) == end for link in self._host.get_links(index=end["index"]))
        return False

    def _up(self, link: Link) -> list[str]:
        assert self._inside is not None
        index = link["index"]
        found = [x for x in self._inside.get_links() if x["index"] == index]
        if not found or found[0].get_attr("IFLA_IFNAME") != link["name"]:
            return [f"{link['name']}: the link is gone"]
        self._inside.link("set", index=index, state="up")
        notes = []
        for address in link["addresses"]:
            notes += _tried(
                f"{link['name']}: address {address['address']}",
                partial(self._inside.addr, "add", index=index, **address),
            )
        for route in link["routes"]:
            notes += _tried(
                f"{link['name']}: route {route['dst']}",
                partial(self._inside.route, "add", **route),
            )
        return notes


def _tried(what: str, act: Callable[[], object]) -> list[str]:
    """A remark when something could not be added that is not there already."""
    try:
        act()
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            return [f"{what}: {_text(error)}"]
    return []


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _NEW_NETWORK) != 0:
        number = ctypes.get_errno()
        raise Refused(f"its network cannot be entered: {os.strerror(number)}")


@contextlib.contextmanager
def _filters() -> Iterator[Any]:
    filters = NFTables(nfgen_family=_NETDEV)
    try:
        yield filters
    finally:
        filters.close()


@contextlib.contextmanager
def _ignoring(*codes: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info is not None else ""


def _identity(link: Any) -> Link:
    return {
        "index": link["index"],
        "name": link.get_attr("IFLA_IFNAME"),
        "mac": link.get_attr("IFLA_ADDRESS"),
    }


def _table(end: Link) -> str:
    return f"rote-quarantine-{end['index']}"


def _text(error: NetlinkError) -> str:
    return os.strerror(error.code)


def serve() -> None:
    """Answer requests until there are no more."""
    network: Network | None = None
    links: list[Link] = []
    for line in sys.stdin.buffer:
        request = orjson.loads(line)
        answer: dict[str, Any] = {}
        try:
            if request["do"] == "look":
                network = Network(request["netns"])
                links = network.look()
                answer = {"links": links, "netns": os.fstat(request["netns"]).st_ino}
            elif request["do"] == "cut":
                assert network is not None
                mode, notes = network.cut(request["mode"], links)
                answer = {"mode": mode, "notes": notes}
            else:
                network = Network(request["netns"])
                answer = {"notes": network.restore(request["mode"], request["links"])}
        except Refused as error:
            answer = {"error": str(error)}
        except NetlinkError as error:
            answer = {"error": f"netlink: {_text(error)}"}
        except OSError as error:
            answer = {"error": f"{error.strerror}"}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
