"""Packages of languages: what wheels, modules, archives and programs say of themselves."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.images.package import Package
from tests.unit.imagery import (
    BASH,
    DEBIAN,
    GO_FRAME,
    Content,
    elf,
    go_program,
    inventory,
    jar,
    named,
    pom,
    rust_program,
    said,
    unpack_to,
)

FLASK = b"Metadata-Version: 2.1\nName: Flask_Login\nVersion: 0.6.3\n\nName: not this\n"
MODULES = (
    "path\texample.org/app/cmd\n"
    "mod\texample.org/app\t(devel)\t\n"
    "dep\tgolang.org/x/net\tv0.17.0\th1:abc=\n"
    "dep\tgithub.com/old/thing\tv1.0.0\n"
    "=>\tgithub.com/new/thing\tv1.2.0\th1:def=\n"
    "dep\texample.org/local\tv0.0.1\n"
    "=>\t./staging/local\t(devel)\t\n"
    "build\t-compiler=gc\n"
)
GO_PACKAGES = {
    "golang:stdlib@v1.21.3",
    "golang:example.org/app@",
    "golang:golang.org/x/net@v0.17.0",
    "golang:github.com/new/thing@v1.2.0",
    "golang:example.org/local@v0.0.1",
}


def program(root: Path, path: str, data: bytes) -> Path:
    """A file that can be executed."""
    unpack_to(root, {path: data})
    (root / path).chmod(0o755)
    return root


def only(root: Path) -> Package:
    """The one package of an image."""
    found = inventory(root)
    assert len(found.packages) == 1, found.packages
    return found.packages[0]


def test_python(tmp_path: Path) -> None:
    """By the metadata of a wheel, with its programs and libraries; names as PyPI has them."""
    base = "usr/local/lib/python3.11/site-packages"
    record = "../../../bin/flask,sha256=x,1\nflask/native.cpython-311.so,,\nflask/app.py,,\n"
    unpack_to(
        tmp_path,
        {
            f"{base}/Flask_Login-0.6.3.dist-info/METADATA": FLASK,
            f"{base}/Flask_Login-0.6.3.dist-info/RECORD": record.encode(),
        },
    )
    found = only(tmp_path)
    assert (found.ecosystem, found.name, found.version) == ("pypi", "flask-login", "0.6.3")
    assert found.purl == "pkg:pypi/flask-login@0.6.3"
    assert found.files == ("/usr/local/bin/flask", f"/{base}/flask/native.cpython-311.so")


@pytest.mark.parametrize(
    "path",
    [
        "opt/x-1.egg-info/PKG-INFO",
        "opt/x-1.egg/EGG-INFO/PKG-INFO",
        "opt/Flask_Login-0.6.3.egg-info",
    ],
)
def test_python_eggs(tmp_path: Path, path: str) -> None:
    """Three forms that setuptools and distributions have left behind."""
    assert only(unpack_to(tmp_path, {path: FLASK})).name == "flask-login"


def test_what_a_distribution_brought_says_so(tmp_path: Path) -> None:
    """Debian mends Jinja2 without changing its version: its advisories are the ones to ask."""
    path = "usr/lib/python3/dist-packages/Jinja2-3.1.2.egg-info"
    unpack_to(
        tmp_path,
        {
            "etc/os-release": DEBIAN,
            "var/lib/dpkg/status": BASH.replace(b"bash", b"python3-jinja2"),
            "var/lib/dpkg/info/python3-jinja2.list": f"/{path}\n".encode(),
            path: b"Name: Jinja2\nVersion: 3.1.2\n",
            "opt/Jinja2-2.10.egg-info": b"Name: Jinja2\nVersion: 2.10\n",
        },
    )
    owners = {p.version: p.owner for p in inventory(tmp_path).packages if p.ecosystem == "pypi"}
    assert owners == {"3.1.2": "python3-jinja2", "2.10": ""}


def test_node(tmp_path: Path) -> None:
    """Installed modules, scoped and within one another; not the fixtures that modules carry."""
    unpack_to(
        tmp_path,
        {
            "app/package.json": b'{"name": "app", "version": "0.0.0"}',
            "app/node_modules/a/package.json": b'{"name": "a", "version": "1.0.0"}',
            "app/node_modules/a/test/package.json": b'{"name": "fixture", "version": "1"}',
            "app/node_modules/a/node_modules/b/package.json": b'{"name": "b", "version": "2.0.0"}',
            "app/node_modules/@s/c/package.json": b'{"name": "@s/c", "version": "3.0.0"}',
            "app/node_modules/d/package.json": b'{"name": "d"',
            "app/node_modules/e/package.json": b'["no", "object"]',
        },
    )
    found = inventory(tmp_path)
    assert named(found) == {"npm:a@1.0.0", "npm:b@2.0.0", "npm:@s/c@3.0.0"}
    assert "pkg:npm/%40s/c@3.0.0" in {package.purl for package in found.packages}
    assert "/app/node_modules/d/package.json: no JSON" in said(found)
    assert "/app/node_modules/e/package.json: package.json without name" in said(found)


def test_go(tmp_path: Path) -> None:
    """Go itself, the program's own module, dependencies, and what took their place."""
    found = inventory(program(tmp_path, "usr/bin/app", go_program(MODULES)))
    assert named(found) == GO_PACKAGES
    assert {package.files for package in found.packages} == {("/usr/bin/app",)}
    assert "pkg:golang/golang.org/x/net@v0.17.0" in {package.purl for package in found.packages}
    assert found.warnings == ()


@pytest.mark.parametrize(("wide", "order"), [(True, "<"), (False, "<"), (False, ">"), (True, ">")])
def test_go_of_before_1_18(tmp_path: Path, wide: bool, order: str) -> None:
    """Pointers to the texts, of either width and in either order; without a table of sections."""
    size = 8 if wide else 4
    texts = [b"go1.17.1", GO_FRAME[0] + MODULES.encode() + GO_FRAME[1]]
    base, info_at = 0x400000, 0x200
    number = f"{order}{'Q' if wide else 'I'}"
    place = info_at + 32
    pointers, table, data = b"", b"", b""
    for index, text in enumerate(texts):
        pointers += struct.pack(number, base + place + index * 2 * size)
        table += struct.pack(number, base + place + 4 * size + len(data))
        table += struct.pack(number, len(text))
        data += text
    info = b"\xff Go buildinf:" + bytes([size, order == ">"]) + pointers
    content = info.ljust(32, b"\0") + table + data
    end = info_at + len(content)
    kind = 2 if wide else 1
    ident = b"\x7fELF" + bytes([kind, 1 if order == "<" else 2, 1]) + bytes(9)
    if wide:
        head = struct.pack(order + "HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        head += struct.pack(order + "IIQQQQQQ", 1, 6, info_at, base + info_at, 0,
                            end - info_at, end - info_at, 4096)  # fmt: skip
    else:
        head = struct.pack(order + "HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        head += struct.pack(order + "8I", 1, info_at, base + info_at, 0,
                            end - info_at, end - info_at, 6, 4096)  # fmt: skip
    whole = (ident + head).ljust(info_at, b"\0") + content
    found = inventory(program(tmp_path, "app", whole))
    assert named(found) == {n.replace("v1.21.3", "v1.17.1") for n in GO_PACKAGES}


def test_rust(tmp_path: Path) -> None:
    """Crates that are in the program; not those that only built it."""
    crates = [
        {"name": "app", "version": "0.1.0", "source": "local", "root": True},
        {"name": "time", "version": "0.1.43", "source": "crates.io"},
        {"name": "cc", "version": "1.0.0", "source": "crates.io", "kind": "build"},
    ]
    found = inventory(program(tmp_path, "bin/app", rust_program(crates)))
    assert named(found) == {"cargo:app@0.1.0", "cargo:time@0.1.43"}
    lock = b'version = 3\n[[package]]\nname = "smallvec"\nversion = "0.6.9"\n'
    other = unpack_to(
        tmp_path / "lock",
        {"src/Cargo.lock": lock, "root/.cargo/registry/src/a/Cargo.lock": b"name"},
    )
    assert named(inventory(other)) == {"cargo:smallvec@0.6.9"}


def test_java(tmp_path: Path) -> None:
    """An application with libraries within, stored or packed, behind a script that starts it."""
    manifest = (
        b"Manifest-Version: 1.0\r\nImplementation-Vendor-Id: org.example.long\r\n .name\r\n"
        b"Implementation-Version: 4.5.6\r\n\r\nName: part\r\nImplementation-Version: 9\r\n"
    )
    app = jar(
        {
            "BOOT-INF/lib/log4j-core-2.14.1.jar": jar(
                pom("org.apache.logging.log4j", "log4j-core", "2.14.1")
            ),
            "BOOT-INF/lib/plain-1.2.3.jar": jar({"a.class": b"x"}),
            "BOOT-INF/lib/tool.jar": jar({"META-INF/MANIFEST.MF": manifest}),
            **pom("org.example", "app", "1.0"),
        },
        stored=True,
        before=b"#!/bin/sh\nexec java -jar $0\n",
    )
    shaded = jar({**pom("com.a", "a", "1"), **pom("com.b", "b", "2")})
    unpack_to(tmp_path, {"opt/app-1.0.jar": app, "opt/all-3.0.jar": shaded, "x.jar": jar({})})
    found = inventory(tmp_path)
    assert named(found) == {
        "maven:org.apache.logging.log4j:log4j-core@2.14.1",
        "maven:plain@1.2.3",
        "maven:org.example.long.name:tool@4.5.6",
        "maven:org.example:app@1.0",
        "maven:com.a:a@1",
        "maven:com.b:b@2",
        "maven:all@3.0",
    }
    log4j = next(p for p in found.packages if "log4j" in p.name)
    assert log4j.location == "/opt/app-1.0.jar!/BOOT-INF/lib/log4j-core-2.14.1.jar"
    assert log4j.purl == "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"
    assert said(found) == "/x.jar: says neither what it is nor its version"


def test_an_archive_without_a_name_is_known_by_its_owner(tmp_path: Path) -> None:
    """The distribution's package says what it is."""
    unpack_to(
        tmp_path,
        {
            "etc/os-release": DEBIAN,
            "var/lib/dpkg/status": BASH,
            "var/lib/dpkg/info/bash.list": b"/usr/share/java/known.jar\n",
            "usr/share/java/known.jar": jar({}),
            "usr/share/java/unknown.jar": jar({}),
        },
    )
    assert said(inventory(tmp_path)) == (
        "/usr/share/java/unknown.jar: says neither what it is nor its version"
    )


def test_a_packed_program_is_said(tmp_path: Path) -> None:
    """What UPX packed shows nothing of what is in it."""
    packed = elf({})[:24] + bytes(40) + b"\0" * 100 + b"UPX!" + bytes(500)
    assert "packed with UPX" in said(inventory(program(tmp_path, "bin/app", packed)))


def test_archives_within_archives_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth, number and size have limits, each of which is said."""
    monkeypatch.setattr("sensor.images.java._INNER_MAX", 100_000)
    deep = jar({"a.class": b""})
    for number in range(8):
        deep = jar({f"{number}.jar": deep}, stored=True)
    bomb = jar({"big.jar": bytes(200_000), "lies.jar": b""})
    unpack_to(tmp_path, {"deep.jar": deep, "bomb.jar": bomb})
    text = said(inventory(tmp_path))
    assert "more than 4 archives, one within the other" in text
    assert "/bomb.jar!/big.jar: 200000 bytes; at most 100000 are read" in text
    assert "/bomb.jar!/lies.jar: is no zip archive" in text


def test_a_member_that_lies_about_its_size(tmp_path: Path) -> None:
    """It says ten bytes and unpacks to gigabytes: it is unpacked as far as the limit."""
    content = jar(pom("a", "b", "1") | {"META-INF/MANIFEST.MF": bytes(3 << 20)})
    size = struct.pack("<I", 3 << 20)
    assert content.count(size) == 2
    unpack_to(tmp_path, {"x.jar": content.replace(size, struct.pack("<I", 10))})
    # A file of that name is not a:b, so the manifest is asked.
    assert "unpacks to more than" in said(inventory(tmp_path))


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("a.dist-info/METADATA", b"Name: x\n", "metadata without name and version"),
        ("Cargo.lock", b"[[package]", "no TOML"),
        ("Cargo.lock", b"[" * 5000, "no TOML"),
        ("Cargo.lock", b"package = 5", "no list of crates"),
        ("bin/go", go_program("x")[:-20], "table of sections is cut off"),
        ("bin/go", elf({b".go.buildinfo": b"\xff Go buildinf:\x08\x02" + bytes(4)}), "cut off"),
        ("bin/go", elf({b".go.buildinfo": b"\xff Go buildinf:\x08\x02" + bytes(64)}), "damaged"),
        ("bin/rust", elf({b".dep-v0": b"rubbish"}), "damaged list of crates"),
        ("bin/rust", rust_program({"a": 1}), "no list of crates"),
        ("bin/rust", rust_program([{"name": 1}]), "a crate without name and version"),
        ("x.jar", b"PK\5\6" + bytes(10), "no zip archive"),
        ("x.jar", b"PK\5\6" + b"\xff" * 18, "zip64"),
    ],
)
def test_what_is_damaged_is_said(tmp_path: Path, path: str, content: bytes, reason: str) -> None:
    """In one line that names the file; the rest is read."""
    program(tmp_path, path, content)
    unpack_to(tmp_path, {"ok.egg-info": FLASK})
    found = inventory(tmp_path)
    assert named(found) == {"pypi:flask-login@0.6.3"}
    assert f"/{path}: " in said(found)
    assert reason in said(found)


def test_a_program_that_may_not_be_read(tmp_path: Path) -> None:
    """Whoever is not root is told what is missing."""
    program(tmp_path, "bin/app", go_program(MODULES))
    (tmp_path / "bin").chmod(0)
    try:
        found = inventory(tmp_path)
    finally:
        (tmp_path / "bin").chmod(0o755)
    if os.geteuid():
        assert "/bin: not read: Permission denied" in said(found)
    else:
        assert named(found) == GO_PACKAGES


GENUINE: dict[str, bytes] = {
    "app": go_program(MODULES),
    "crate": rust_program([{"name": "a", "version": "1"}]),
    "a.jar": jar({"b.jar": jar(pom("g", "a", "1")), "META-INF/MANIFEST.MF": b"A: b\n"}),
    "node_modules/a/package.json": json.dumps({"name": "a", "version": "1"}).encode(),
    "a.dist-info/METADATA": FLASK,
    "Cargo.lock": b'[[package]]\nname = "a"\nversion = "1"\n',
}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(GENUINE)), st.data())
def test_any_file_gives_an_inventory(name: str, data: st.DataObject) -> None:
    """With some bytes changed, cut anywhere: never a traceback, and what is said is one line."""
    content = bytearray(GENUINE[name])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    entries: dict[str, Content] = {name: bytes(content[: data.draw(st.integers(0, 1 << 12))])}
    with tempfile.TemporaryDirectory() as place:
        root = unpack_to(Path(place), entries)
        (root / name).chmod(0o755)
        found = inventory(root)
        assert all(str(warning).isprintable() for warning in found.warnings)
        assert all(package.purl.isprintable() for package in found.packages)
