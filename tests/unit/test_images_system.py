"""Packages of distributions: dpkg, apk and RPM, from genuine parts of their databases."""

from __future__ import annotations

import gzip
import sqlite3
import struct
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import ImageError
from sensor.images.distribution import parse_os_release
from sensor.images.package import Distribution, Package
from sensor.images.rpm import read_header
from tests.unit.imagery import (
    BASH,
    DATA,
    DEBIAN,
    Content,
    docker_archive,
    inventory,
    layer,
    named,
    said,
    unpack_to,
)

BDB = gzip.decompress((DATA / "rpm-Packages.gz").read_bytes())
CUT = b"\nPackage: x\nStatus: install ok "
DATABASES = ("Packages", "Packages.db", "rpmdb.sqlite", "status", "installed")
MARINER = b'ID=mariner\nVERSION_ID="2.0"\n'
RPM_PACKAGES = {
    "rpm:ca-certificates-base@1:2.0.0-1.cm2",
    "rpm:xz-libs@5.2.5-1.cm2",
    "rpm:zstd-libs@1.5.0-1.cm2",
}


def by_name(packages: tuple[Package, ...]) -> dict[str, Package]:
    """Packages by their names."""
    return {package.name: package for package in packages}


def test_debian(tmp_path: Path) -> None:
    """Binary and source packages with both versions, and which of their files may run."""
    unpack_to(
        tmp_path,
        {
            "etc/os-release": DEBIAN,
            "bin": "usr/bin",
            "usr/bin/bash": b"#!",
            "var/lib/dpkg/status": (DATA / "dpkg-status").read_bytes(),
            "var/lib/dpkg/info/bash.list": b"/.\n/bin\n/bin/bash\n/usr/share/doc/bash\n",
            "var/lib/dpkg/info/libc6:amd64.list": b"/lib/x86_64-linux-gnu/libc.so.6\n",
        },
    )
    found = inventory(tmp_path)
    packages = by_name(found.packages)
    assert found.distribution == Distribution("debian", "12", "bookworm", "Debian 12")
    assert found.warnings == ()
    assert set(packages) == {"bash", "libc6", "libgcc-s1", "perl-base"}
    bash, libgcc = packages["bash"], packages["libgcc-s1"]
    assert (bash.version, bash.source_version) == ("5.2.15-2+b13", "5.2.15-2")
    assert (libgcc.source_name, libgcc.arch) == ("gcc-12", "amd64")
    assert packages["libc6"].source_name == "glibc"
    # The list has the old name of a merged directory; programs are seen under the new one.
    assert bash.files == ("/usr/bin/bash",)
    assert packages["libc6"].files == ("/lib/x86_64-linux-gnu/libc.so.6",)
    assert bash.purl == "pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64&distro=debian-12"


def test_what_dpkg_removed_is_not_there(tmp_path: Path) -> None:
    """Configuration files that were left behind are no package; a half installed one is."""
    status = b"\n".join(
        b"Package: p%d\nStatus: install ok %s\nVersion: 1\nArchitecture: all\n" % (number, state)
        for number, state in enumerate(
            (b"installed", b"config-files", b"half-installed", b"not-installed", b"unpacked")
        )
    )
    unpack_to(tmp_path, {"etc/os-release": DEBIAN, "var/lib/dpkg/status": status})
    assert named(inventory(tmp_path)) == {"deb:p0@1", "deb:p2@1", "deb:p4@1"}


def test_distroless(tmp_path: Path) -> None:
    """A directory of small files, with sums in place of lists."""
    unpack_to(
        tmp_path,
        {
            "etc/os-release": DEBIAN,
            "var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 12.4\n",
            "var/lib/dpkg/status.d/libssl3": b"Package: libssl3\nVersion: 3.0.1\nSource: openssl\n",
            "var/lib/dpkg/status.d/libssl3.md5sums": b"0123  usr/lib/libssl.so.3\n",
        },
    )
    found = inventory(tmp_path)
    assert named(found) == {"deb:base-files@12.4", "deb:libssl3@3.0.1"}
    assert by_name(found.packages)["libssl3"].source_name == "openssl"
    assert by_name(found.packages)["libssl3"].files == ("/usr/lib/libssl.so.3",)
    assert found.warnings == ()


def test_alpine(tmp_path: Path) -> None:
    """With origins; of an image that says what it is in the old file only."""
    unpack_to(
        tmp_path,
        {
            "etc/alpine-release": b"3.10.4\n",
            "lib/apk/db/installed": (DATA / "apk-installed").read_bytes(),
        },
    )
    found = inventory(tmp_path)
    packages = by_name(found.packages)
    assert set(packages) == {"musl", "libssl1.1", "ca-certificates-cacert"}
    assert packages["libssl1.1"].source_name == "openssl"
    assert packages["libssl1.1"].version == "1.1.1d-r2"
    assert "/lib/ld-musl-x86_64.so.1" in packages["musl"].files
    assert found.distribution == Distribution("alpine", "3.10.4", pretty="Alpine Linux 3.10.4")
    assert packages["musl"].purl == (
        "pkg:apk/alpine/musl@1.1.22-r3?arch=x86_64&distro=alpine-3.10.4"
    )
    assert found.warnings == ()


def headers() -> list[bytes]:
    """The genuine headers, out of Berkeley DB's pages by their lengths."""
    found = []
    for length in (21908, 4940, 4512):
        start = struct.pack("<I", length)
        at = BDB.find(start)
        first = struct.unpack_from("<I", BDB, at - 4)[0]
        data = b""
        while len(data) < length:
            page = BDB[first * 4096 : (first + 1) * 4096]
            data += page[26 : 26 + struct.unpack_from("<H", page, 22)[0]]
            first = struct.unpack_from("<I", page, 16)[0]
        found.append(data)
    return found


def sqlite_database(place: Path, blobs: list[bytes], *, log: bool = False) -> None:
    """As RPM writes it; with ``log`` what was written last is not in the file itself yet."""
    place.mkdir(parents=True)
    path = place / "rpmdb.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB)")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
        db.commit()
        names = (path.name, f"{path.name}-wal")
        # Closing would put the log into the file.
        kept = {name: (place / name).read_bytes() for name in names} if log else {}
    for name, data in kept.items():
        (place / name).write_bytes(data)


def ndb_database(blobs: list[bytes]) -> bytes:
    """As RPM's lib/backend/ndb/rpmpkg.c writes it."""
    slots, body, at = b"", b"", 4096
    for number, blob in enumerate(blobs, 1):
        data = struct.pack("<4sIII", b"BlbS", number, 0, len(blob)) + blob
        data = (data + b"\0" * 12).ljust((len(data) + 27) // 16 * 16, b"\0")
        slots += struct.pack("<4sIII", b"Slot", number, at // 16, len(data) // 16)
        body, at = body + data, at + len(data)
    free = struct.pack("<4sIII", b"Slot", 0, 0, 0) * (254 - len(blobs))
    return struct.pack("<4sIII16x", b"RpmP", 0, 1, 1) + slots + free + body


def test_rpm_in_berkeley_db(tmp_path: Path) -> None:
    """A file that Berkeley DB wrote; epochs, sources and architectures as rpm -qa has them."""
    unpack_to(tmp_path, {"etc/os-release": MARINER, "var/lib/rpm/Packages": BDB})
    found = inventory(tmp_path)
    packages = by_name(found.packages)
    assert named(found) == RPM_PACKAGES
    base = packages["ca-certificates-base"]
    assert (base.source_name, base.source_version) == ("ca-certificates", "1:2.0.0-1.cm2")
    assert base.arch == "noarch"
    assert base.purl.endswith("base@2.0.0-1.cm2?arch=noarch&distro=mariner-2.0&epoch=1")
    assert packages["xz-libs"].source_name == "xz"
    assert "/usr/lib/liblzma.so.5" in packages["xz-libs"].files
    assert found.warnings == ()


@pytest.mark.parametrize("log", [False, True])
def test_rpm_in_sqlite(tmp_path: Path, log: bool) -> None:
    """Also what is in the log beside it only."""
    unpack_to(tmp_path, {"etc/os-release": MARINER})
    sqlite_database(tmp_path / "usr/lib/sysimage/rpm", headers(), log=log)
    found = inventory(tmp_path)
    assert named(found) == RPM_PACKAGES
    assert found.warnings == ()


def test_rpm_in_ndb(tmp_path: Path) -> None:
    """SUSE's, through the link that the old place has become."""
    unpack_to(
        tmp_path,
        {
            "etc/os-release": MARINER,
            "usr/lib/sysimage/rpm/Packages.db": ndb_database(headers()),
            "var/lib/rpm": "../../usr/lib/sysimage/rpm",
        },
    )
    found = inventory(tmp_path)
    assert named(found) == RPM_PACKAGES
    assert len(found.packages) == 3
    assert found.warnings == ()


def test_a_database_that_asks_for_ever(tmp_path: Path) -> None:
    """A view in place of the table would be computed without end."""
    place = tmp_path / "var/lib/rpm"
    place.mkdir(parents=True)
    with closing(sqlite3.connect(place / "rpmdb.sqlite")) as db:
        db.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob + 1 "
            "FROM n) SELECT blob FROM n"
        )
    found = inventory(tmp_path)
    assert "/var/lib/rpm/rpmdb.sqlite: has no table Packages" in said(found)


def test_a_schema_that_is_no_text(tmp_path: Path) -> None:
    """SQLite's own message about it cannot be decoded."""
    place = tmp_path / "var/lib/rpm"
    sqlite_database(place, headers()[1:])
    path = place / "rpmdb.sqlite"
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE Pack", b"CREATE \xffABLE Pack"))
    assert "its schema is no text" in said(inventory(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID=alpine\nVERSION_ID=3.19.1", ("alpine", "3.19.1", "")),
        ('ID="rocky"\nVERSION_ID="9.3"\nID_LIKE="rhel centos"', ("rocky", "9.3", "")),
        ("# ID=no\nID=debian\nVERSION_CODENAME=trixie", ("debian", "", "trixie")),
        ("ID='open\nVERSION_ID='", ("open", "", "")),
    ],
)
def test_os_release(text: str, expected: tuple[str, str, str]) -> None:
    """Quoted or not, and with a quote that is never closed."""
    found = parse_os_release(text)
    assert found is not None
    assert (found.id, found.version_id, found.codename) == expected


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("etc/redhat-release", b"CentOS release 6.10 (Final)\n", ("centos", "6.10")),
        ("etc/centos-release", b"CentOS Linux release 7.6.1810 (Core)\n", ("centos", "7.6.1810")),
        ("etc/debian_version", b"9.9\n", ("debian", "9")),
        ("etc/debian_version", b"bullseye/sid\n", ("debian", "")),
    ],
)
def test_distributions_of_old(
    tmp_path: Path, file: str, line: bytes, expected: tuple[str, str]
) -> None:
    """Before there was os-release."""
    unpack_to(tmp_path, {file: line})
    found = inventory(tmp_path).distribution
    assert found is not None
    assert (found.id, found.version_id) == expected


def test_an_unknown_distribution_is_said(tmp_path: Path) -> None:
    """Packages without a distribution, and a distribution without packages."""
    alone = unpack_to(tmp_path / "alone", {"var/lib/dpkg/status": BASH})
    assert "no /etc/os-release" in said(inventory(alone))
    assert named(inventory(alone)) == {"deb:bash@5.2.15-2+b2"}
    empty = unpack_to(tmp_path / "empty", {"etc/os-release": b"ID=nixos\n"})
    assert "nixos without a database of packages" in said(inventory(empty))
    wrong = unpack_to(tmp_path / "wrong", {"etc/os-release": b"\x00\xff rubbish"})
    assert "/etc/os-release: names no distribution" in said(inventory(wrong))


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("var/lib/dpkg/status", b"\x00" * 100, "no package in it"),
        (
            "var/lib/dpkg/status",
            BASH + b"\nPackage: x\nStatus: install ok inst",
            "middle of a line",
        ),
        (
            "var/lib/dpkg/status",
            BASH + b"\nPackage: x\nStatus: install ok installed\n",
            "no version",
        ),
        ("lib/apk/db/installed", b"rubbish", "no package in it"),
        ("lib/apk/db/installed", b"P:a\nV:1\n\nP:b\n", "package b has no version"),
        ("var/lib/rpm/Packages", b"rubbish" * 100, "no hash database"),
        ("var/lib/rpm/Packages", BDB[: len(BDB) // 2], "packages may lack"),
        ("var/lib/rpm/Packages.db", b"RpmP" + bytes(3000), "no package in it"),
        ("var/lib/rpm/rpmdb.sqlite", b"SQLite format 3\0" + bytes(5000), "packages may lack"),
    ],
)
def test_a_damaged_database_is_said_in_one_line(
    tmp_path: Path, path: str, content: bytes, reason: str
) -> None:
    """And the rest of the image is read."""
    entries: dict[str, Content] = {"etc/os-release": DEBIAN, path: content}
    entries["node_modules/a/package.json"] = b'{"name": "a", "version": "1"}'
    found = inventory(unpack_to(tmp_path, entries))
    assert any(w.location == f"/{path}" and reason in w.reason for w in found.warnings), said(found)
    assert "npm:a@1" in named(found)
    assert all("\n" not in str(warning) for warning in found.warnings)


def test_a_status_file_that_is_too_large_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the memory of the host."""
    monkeypatch.setattr("sensor.images.dpkg._STATUS_MAX", 100)
    unpack_to(tmp_path, {"etc/os-release": DEBIAN, "var/lib/dpkg/status": BASH})
    assert "at most 100 are read" in said(inventory(tmp_path))


def test_the_layer_of_the_database_is_named(tmp_path: Path) -> None:
    """The last that changed it."""
    lower = layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": b""})
    upper = layer({"var/lib/dpkg/status": BASH})
    found = inventory(docker_archive(tmp_path / "a.tar", [lower, upper]))
    assert [package.layer for package in found.packages] == [found.layers[1]]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_header_is_an_error_and_nothing_else(data: st.DataObject) -> None:
    """Whichever bytes are changed or missing."""
    blob = bytearray(data.draw(st.sampled_from(headers())))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    del blob[data.draw(st.integers(0, len(blob))) :]
    with suppress(ImageError):
        tags = read_header(bytes(blob))
        assert all(isinstance(tag, int) for tag in tags)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["Packages", "Packages.db", "rpmdb.sqlite", "status", "installed"]), st.data()
)
def test_any_database_gives_an_inventory(name: str, data: st.DataObject) -> None:
    """Genuine ones with some bytes changed, cut anywhere: never a traceback."""
    with tempfile.TemporaryDirectory() as place:
        root = unpack_to(Path(place), {"etc/os-release": MARINER})
        if name == "rpmdb.sqlite":
            sqlite_database(root / "var/lib/rpm", headers()[1:])
            path = root / "var/lib/rpm" / name
            content = bytearray(path.read_bytes())
        else:
            path, genuine = {
                "Packages": (root / "var/lib/rpm/Packages", BDB),
                "Packages.db": (root / "var/lib/rpm/Packages.db", ndb_database(headers())),
                "status": (root / "var/lib/dpkg/status", (DATA / "dpkg-status").read_bytes()),
                "installed": (root / "lib/apk/db/installed", (DATA / "apk-installed").read_bytes()),
            }[name]
            path.parent.mkdir(parents=True)
            content = bytearray(genuine)
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(content) - 1)))
            content[at : at + 2] = data.draw(st.binary(min_size=1, max_size=2))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        found = inventory(root)
        assert all("\n" not in str(warning) for warning in found.warnings)


def test_more_packages_than_any_image_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are read, and that there are more is said."""
    monkeypatch.setattr("sensor.images.inventory.PACKAGES_MAX", 3)
    monkeypatch.setattr("sensor.images.owners._OWNED_MAX", 1)
    text = "Package: p{}\nStatus: install ok installed\nVersion: 1\n\n"
    entries: dict[str, Content] = {"etc/os-release": DEBIAN}
    entries["var/lib/dpkg/status"] = "".join(text.format(i) for i in range(9)).encode()
    entries["var/lib/dpkg/info/p1.list"] = b"/bin/a\n/bin/b\n"
    found = inventory(unpack_to(tmp_path, entries))
    assert len(found.packages) == 3
    assert "more than 3 packages: the rest is not read" in said(found)
    assert "more than 1 files of packages" in said(found)
