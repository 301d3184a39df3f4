"""What lies in an image that checks ask for: rights, keys, altered programs, malware."""

from __future__ import annotations

import base64
import hashlib
import struct
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.errors import BadInputError
from sensor.images import worker
from sensor.images.archive import open_image
from sensor.images.cache import InventoryCache
from sensor.images.compliance import facts as module
from sensor.images.compliance.facts import (
    HashList,
    ImageFacts,
    hash_list,
    read_hash_list,
    take_both,
    take_image_facts,
)
from sensor.images.compliance.updates import pending_updates
from sensor.images.worker import Request, read_apart, read_image_apart
from tests.unit.imagery import (
    BASH,
    DEBIAN,
    Content,
    docker_archive,
    inventory,
    layer,
    oci_layout,
    unpack_to,
)
from tests.unit.test_images_system import sqlite_database

KEY = (
    b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n"
    b"MIIEpAIBAAKCAQEAwJ1z8n0dGQXe\n-----END RSA PRIVATE KEY-----\n"
)
LS, SH = b"\x7fELF the program ls" * 9, b"#!/bin/sh\necho tool\n"
MD5 = hashlib.md5(LS, usedforsecurity=False).hexdigest()
DPKG: dict[str, Content] = {
    "etc/os-release": DEBIAN,
    "var/lib/dpkg/status": BASH,
    "var/lib/dpkg/info/coreutils.md5sums": (
        f"{MD5}  bin/ls\n{MD5}  usr/bin/dir\n{'0' * 32}  usr/bin/gone\n{MD5}  usr/share/doc/x\n"
        f"{MD5}  usr/bin/diverted\n"
    ).encode(),
    "var/lib/dpkg/diversions": b"/usr/bin/diverted\n/usr/bin/diverted.old\nother\n",
    "bin": "usr/bin",
    "usr/bin/ls": LS,
    "usr/bin/dir": LS + b"changed",
    "usr/bin/diverted": b"another's",
    "usr/bin/diverted.old": LS,
    "usr/share/doc/x": b"documentation may differ",
    "root/.ssh/id_rsa": KEY,
    "etc/ssl/private/readme": b"-----BEGIN PRIVATE KEY----- is how a key begins\n",
    "app/server.pem": b"-----BEGIN CERTIFICATE-----\nMIIB\n",
}
MODES = {"usr/bin/ls": 0o4755, "usr/bin/dir": 0o2755, "usr/bin/diverted": 0o755}


def look(path: Path, hashes: HashList | None = None) -> ImageFacts:
    """At an image."""
    with open_image(path) as files:
        return take_image_facts(files, hashes or HashList())


def check(found: ImageFacts) -> None:
    """What is in DPKG."""
    assert found.set_ids == ("/usr/bin/dir (setgid)", "/usr/bin/ls (setuid)")
    assert found.keys == ("/root/.ssh/id_rsa",)
    assert found.altered == ("/usr/bin/dir (coreutils)",)
    assert (found.expected, found.compared) == (4, 3)
    assert found.complete
    assert found.warnings == ()


def test_in_every_form_of_an_image(tmp_path: Path) -> None:
    """In an archive, in a compressed layer, and the inventory is the same as without."""
    data = layer(DPKG, MODES)
    archive = docker_archive(tmp_path / "a.tar", [data])
    check(look(archive))
    check(look(oci_layout(tmp_path / "oci", [data])))
    with open_image(archive) as files:
        both, found = take_both(files)
    assert both == inventory(archive)
    check(found)
    assert found.image_id == both.image_id


def test_an_upper_layer_counts(tmp_path: Path) -> None:
    """What it removed is not there, and what it changed is altered."""
    upper = layer({"root/.ssh/.wh.id_rsa": b"", "usr/bin/ls": b"\x7fELF evil"}, {})
    found = look(docker_archive(tmp_path / "a.tar", [layer(DPKG, MODES), upper]))
    assert found.keys == ()
    assert found.altered == ("/usr/bin/dir (coreutils)", "/usr/bin/ls (coreutils)")


def test_apk_says_what_its_files_should_be(tmp_path: Path) -> None:
    """By SHA-1 in base64; links have none that count."""
    digest = base64.b64encode(hashlib.sha1(LS, usedforsecurity=False).digest()).decode()
    installed = (
        f"P:busybox\nV:1.2-r0\nA:x86_64\nF:bin\nR:busybox\na:0:0:755\nZ:Q1{digest}\n"
        f"R:other\nZ:Q1{digest}\nR:odd\nZ:Q1***\nF:etc\nR:conf\nZ:Q1{digest}\n\n"
    )
    found = look(
        docker_archive(
            tmp_path / "a.tar",
            [layer({"lib/apk/db/installed": installed.encode(), "bin/busybox": LS,
                    "bin/other": b"\x7fELF not", "etc/conf": b"mine"})],
        )
    )  # fmt: skip
    assert found.altered == ("/bin/other (busybox)",)
    assert (found.expected, found.compared) == (2, 2)


def _rpm_header(
    texts: dict[int, str], lists: dict[int, list[str]], numbers: dict[int, list[int]]
) -> bytes:
    """A header as RPM keeps it in its databases."""
    index, data = b"", b""
    for tag, text in texts.items():
        index += struct.pack(">IIiI", tag, 6, len(data), 1)
        data += text.encode() + b"\0"
    for tag, entries in lists.items():
        index += struct.pack(">IIiI", tag, 8, len(data), len(entries))
        data += b"".join(entry.encode() + b"\0" for entry in entries)
    for tag, values in numbers.items():
        index += struct.pack(">IIiI", tag, 4, len(data), len(values))
        data += struct.pack(f">{len(values)}I", *values)
    return struct.pack(">II", len(index) // 16, len(data)) + index + data


def test_rpm_says_what_its_files_should_be(tmp_path: Path) -> None:
    """By the digest that it names; configuration files and those it only reserves may differ."""
    sha = hashlib.sha256(LS).hexdigest()
    names = ["ls", "dir", "conf", "ghost"]
    header = _rpm_header(
        {1000: "coreutils", 1001: "9", 1002: "1", 1022: "x86_64"},
        {1117: names, 1118: ["/usr/bin/"], 1035: [sha, sha, sha, ""]},
        {1116: [0, 0, 0, 0], 1037: [0, 0, 1, 64], 5011: [8]},
    )
    root = tmp_path / "root"
    files: dict[str, Content] = {f"usr/bin/{name}": LS for name in names}
    unpack_to(root, {**files, "usr/bin/dir": b"other", "usr/bin/conf": b"mine"})
    sqlite_database(root / "var/lib/rpm", [header])
    found = look(root)
    assert found.altered == ("/usr/bin/dir (coreutils)",)
    assert (found.expected, found.compared) == (2, 2)


def test_malware_by_its_hash(tmp_path: Path) -> None:
    """SHA-256 and MD5; only what may run is hashed."""
    path = tmp_path / "hashes"
    sha = hashlib.sha256(SH).hexdigest()
    path.write_text(f"# list\n{sha.upper()}  xmrig\n{MD5}\n\n")
    hashes = read_hash_list(path)
    data = layer({"opt/tool": SH, "opt/data": SH, "usr/bin/ls": LS}, {"opt/tool": 0o755})
    archive = docker_archive(tmp_path / "a.tar", [data])
    found = look(archive, hashes)
    assert found.malware == ("/opt/tool (xmrig)", "/usr/bin/ls (on the list)")
    assert found.hash_list == hashes.id != ""
    assert look(archive).malware == ()


@pytest.mark.parametrize("line", ["xyz", "abcd", "g" * 64, "a" * 63, "a" * 64 + "b"])
def test_a_list_with_a_mistake_is_refused(tmp_path: Path, line: str) -> None:
    """With its line."""
    path = tmp_path / "hashes"
    path.write_text(f"# ok\n{line}\n")
    with pytest.raises(BadInputError, match=r"hashes:2: .*expected a SHA-256 or MD5"):
        read_hash_list(path)
    with pytest.raises(BadInputError, match="No such file"):
        read_hash_list(tmp_path / "none")


def test_what_is_not_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Huge files, and no time: the rest is not known, and such facts are not kept."""
    archive = docker_archive(tmp_path / "a.tar", [layer(DPKG, MODES)])
    monkeypatch.setattr(module, "HASHED_MAX", 100)
    found = look(archive)
    assert not found.complete
    assert any("/usr/bin/ls" in str(w) and "not hashed" in str(w) for w in found.warnings)
    monkeypatch.undo()
    with open_image(archive) as files:
        late = take_image_facts(files, seconds=0.0)
    assert not late.complete
    assert not late.final


async def test_apart_in_one_process(tmp_path: Path) -> None:
    """Both, as they are found here; without facts as before."""
    archive = docker_archive(tmp_path / "a.tar", [layer(DPKG, MODES)])
    hashes = hash_list({MD5: "a tool"})
    both, found = await read_image_apart(Request(archive=str(archive)), hashes)
    assert both == await read_apart(Request(archive=str(archive))) == inventory(archive)
    check(replace(found, malware=(), hash_list=""))
    assert found.malware == ("/usr/bin/diverted.old (a tool)", "/usr/bin/ls (a tool)")
    assert worker.read_apart is read_apart


def test_facts_are_kept(tmp_path: Path) -> None:
    """By image and list of malware; damaged ones and those that are not final are not."""
    path = tmp_path / "images.db"
    found = look(docker_archive(tmp_path / "a.tar", [layer(DPKG, MODES)]))
    with closing(InventoryCache(path)) as cache:
        cache.put_facts(found)
        assert cache.get_facts(found.image_id) == found
        assert cache.get_facts(found.image_id, "other") is None
        cache.put_facts(replace(found, final=False, image_id="sha256:2"))
        assert cache.get_facts("sha256:2") is None
        cache._db.execute("UPDATE facts SET content=x'00'")
        assert cache.get_facts(found.image_id) is None
        cache.put_facts(found)
        cache.remove(found.image_id)
        assert cache.get_facts(found.image_id) is None
    with closing(InventoryCache(path)) as cache:  # made by a version before
        cache._db.execute("DROP TABLE facts")
    with closing(InventoryCache(path)) as cache:
        assert cache.get_facts(found.image_id) is None


def test_updates_that_a_host_has_pending(tmp_path: Path) -> None:
    """By apt's own lists; without them nobody knows."""
    assert pending_updates(tmp_path) is None
    lists = tmp_path / "var/lib/apt/lists"
    lists.mkdir(parents=True)
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: runc\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.1.5\n\n"
        "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    assert pending_updates(tmp_path) is None
    (lists / "deb.debian.org_debian-security_x_Packages").write_text(
        "Package: runc\nArchitecture: amd64\nVersion: 1.1.5-1+deb12u1\n\n"
        "Package: bash\nArchitecture: amd64\nVersion: 5.1\n\n"
        "Package: gone\nArchitecture: amd64\nVersion: 2\n\nPackage: bash\nVersion: ???\n"
    )
    assert pending_updates(tmp_path) == ("runc",)
    (lists / "deb.debian.org_debian-security_y_Packages.xz").write_bytes(b"broken")
    assert pending_updates(tmp_path) is None
