"""`rote images`, bills of materials, and inventories that are kept."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from sensor.cli.main import rote
from sensor.errors import ImageError, RoteError, StateError
from sensor.images.cache import InventoryCache, pack, unpack
from sensor.images.cyclonedx import read_cyclonedx, write_cyclonedx
from sensor.images.inventory import READER
from sensor.images.package import Distribution, Inventory, Omission, Package
from sensor.images.spdx import write_spdx
from tests.unit.imagery import (
    BASH,
    DEBIAN,
    Content,
    config,
    digest,
    docker_archive,
    inventory,
    jar,
    layer,
    pom,
    said,
)
from tests.unit.schemas import HERE

ENTRIES: dict[str, Content] = {
    "etc/os-release": DEBIAN,
    "var/lib/dpkg/status": BASH,
    "node_modules/@s/c/package.json": b'{"name": "@s/c", "version": "3.0.0"}',
    "app.jar": jar(pom("g", "a", "1") | pom("h", "b", "2")),
    "broken.jar": b"PK",
    "opt/x\x1b[31m/a.egg-info": b"Name: a\x1b[2J\nVersion: 1\n",
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image with something of everything."""
    return docker_archive(tmp_path / "web.tar", [layer(ENTRIES)])


def run(tmp_path: Path, *arguments: str | Path) -> Result:
    """The command, with a state of its own."""
    return CliRunner().invoke(
        rote,
        ["--state-dir", str(tmp_path / "state"), "images", *map(str, arguments)],
        env={"DOCKER_HOST": None},
    )


def test_scan_says_what_is_in_it(tmp_path: Path, archive: Path) -> None:
    """For people, and for programs."""
    result = run(tmp_path, "scan", archive)
    assert result.exit_code == 0, result.output
    assert "web:1" in result.stdout
    assert "Debian 12; docker archive" in result.stdout
    assert "packages: 1 deb, 2 maven, 1 npm, 1 pypi" in result.stdout
    assert "not read: /broken.jar: is no zip archive" in result.stderr
    facts = json.loads(run(tmp_path, "scan", archive, "-o", "json").stdout)
    assert facts["counts"] == {"deb": 1, "maven": 2, "npm": 1, "pypi": 1}
    assert facts["id"] == digest(config([layer(ENTRIES)]))
    assert facts["warnings"][0]["location"] == "/broken.jar"


def test_show_lists_packages(tmp_path: Path, archive: Path) -> None:
    """All, or those of one ecosystem; nothing from the image reaches the terminal as it is."""
    result = run(tmp_path, "show", archive)
    assert "pkg:" not in result.stdout
    assert "bash" in result.stdout
    assert "\x1b" not in result.output
    lines = run(tmp_path, "show", archive, "--ecosystem", "npm", "-o", "jsonl").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["@s/c"]
    whole = json.loads(run(tmp_path, "show", archive, "-o", "json").stdout)
    assert len(whole["packages"]) == 5


def test_an_image_is_read_once(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id is enough the second time, without the archive; --fresh reads it again."""
    run(tmp_path, "scan", archive)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr("sensor.images.inventory.take_inventory", refuse)
        image_id = digest(config([layer(ENTRIES)]))
        for name in (archive, image_id, image_id[7:19]):
            result = run(tmp_path, "scan", name)
            assert result.exit_code == 0, result
        assert isinstance(run(tmp_path, "scan", archive, "--fresh").exception, AssertionError)
    rows = json.loads(run(tmp_path, "list", "-o", "json").stdout)
    assert [(row["image"], row["packages"], row["warnings"]) for row in rows] == [("web:1", 5, 1)]
    assert "web:1" in run(tmp_path, "list").stdout


def test_another_reader_reads_again(tmp_path: Path, archive: Path) -> None:
    """A new Rote finds more than the old one did."""
    run(tmp_path, "scan", archive)
    with closing(sqlite3.connect(tmp_path / "state/images.db")) as db:
        db.execute("UPDATE inventories SET reader = reader - 1")
        db.commit()
    assert json.loads(run(tmp_path, "list", "-o", "json").stdout)[0]["current"] is False
    with closing(InventoryCache(tmp_path / "state/images.db")) as cache:
        assert cache.get(digest(config([layer(ENTRIES)]))) is None
    run(tmp_path, "scan", archive)
    assert json.loads(run(tmp_path, "list", "-o", "json").stdout)[0]["current"] is True


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("scan",), "name an archive"),
        (("scan", "x", "--from-sbom", "y"), "not both"),
        (("scan", "./nothing", "--engine", "tcp://1.2.3.4"), "expected an address like unix:///"),
        (("scan", "--from-sbom", "nothing"), "expected an SBOM"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    """And an error of ours."""
    result = run(tmp_path, *arguments)
    assert isinstance(result.exception, RoteError)
    assert text in str(result.exception)


def test_a_state_that_cannot_be_written_is_no_obstacle(tmp_path: Path, archive: Path) -> None:
    """Whoever only wants to look at an archive need not be root."""
    (tmp_path / "state").write_text("a file")
    result = run(tmp_path, "scan", archive)
    assert result.exit_code == 0
    assert "not kept" in result.stderr


@pytest.mark.parametrize("form", ["cyclonedx", "spdx"])
def test_a_bill_of_materials_on_standard_output_and_in_a_file(
    tmp_path: Path, archive: Path, form: str
) -> None:
    """The same."""
    shown = run(tmp_path, "sbom", archive, "--format", form)
    written = run(tmp_path, "sbom", archive, "--format", form, "--file", tmp_path / "out.json")
    assert written.exit_code == 0
    assert json.loads(shown.stdout) == json.loads((tmp_path / "out.json").read_text())
    assert "/broken.jar" in shown.stderr


def test_cyclonedx_is_as_its_schema_has_it(archive: Path) -> None:
    """And says that the image is known in part, and what it lacks."""
    document = write_cyclonedx(inventory(archive))
    schema = json.loads((HERE / "cyclonedx-1.5.json").read_text())
    jsonschema.Draft7Validator(schema).validate(json.loads(json.dumps(document)))
    assert document["compositions"][0]["aggregate"] == "incomplete"
    names = {(c.get("group"), c["name"]) for c in document["components"]}
    assert ("g", "a") in names
    assert (None, "debian") in names
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({**document, "serialNumber": "x"})


def test_cyclonedx_comes_back_as_it_went(tmp_path: Path, archive: Path) -> None:
    """Everything but the files of packages, and how long the reading took."""
    before = inventory(archive)
    path = tmp_path / "a.cdx.json"
    path.write_text(json.dumps(write_cyclonedx(before)))
    after = read_cyclonedx(path, 1)
    packages = tuple(replace(package, files=()) for package in before.packages)
    assert after == replace(before, packages=packages, source="SBOM", files=0)


def test_spdx_names_everything_once(archive: Path) -> None:
    """By the rules of SPDX 2.3: unique identifiers, relations between what is there."""
    found = inventory(archive)
    document = write_spdx(found)
    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["dataLicense"] == "CC0-1.0"
    names = [package["SPDXID"] for package in document["packages"]]
    assert len(set(names)) == len(names) == len(found.packages) + 2
    for package in document["packages"]:
        assert set(package) >= {"SPDXID", "name", "downloadLocation"}
    related = {r["relatedSpdxElement"] for r in document["relationships"]}
    assert related == set(names)
    assert "/broken.jar" in document["comment"]
    json.dumps(document)


TRIVY = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "metadata": {
        "component": {
            "type": "container",
            "name": "centos:7",
            "properties": [
                {"name": "aquasecurity:trivy:ImageID", "value": "sha256:5e35e350aded"},
            ],
        }
    },
    "components": [
        {"type": "operating-system", "name": "centos", "version": "7.6.1810"},
        {
            "type": "library",
            "name": "openssl-libs",
            "version": "1:1.0.2k-16.el7",
            "purl": "pkg:rpm/centos/openssl-libs@1.0.2k-16.el7?arch=x86_64&epoch=1",
            "properties": [
                {"name": "aquasecurity:trivy:SrcName", "value": "openssl"},
                {"name": "aquasecurity:trivy:SrcVersion", "value": "1.0.2k"},
                {"name": "aquasecurity:trivy:SrcRelease", "value": "16.el7"},
                {"name": "aquasecurity:trivy:SrcEpoch", "value": "1"},
            ],
        },
        {"type": "library", "name": "nameless", "version": "1"},
        {"type": "library", "name": "bad", "purl": "no purl"},
        {
            "type": "application",
            "name": "app",
            "components": [
                {"type": "library", "name": "x", "purl": "pkg:golang/golang.org/x/net@v0.1.0"}
            ],
        },
    ],
}


def test_the_bill_of_another_tool(tmp_path: Path) -> None:
    """In the form of Trivy: sources by its properties, the epoch by the package's URL."""
    path = tmp_path / "trivy.json"
    path.write_text(json.dumps(TRIVY))
    found = read_cyclonedx(path, 1)
    assert found.distribution == Distribution("centos", "7.6.1810")
    assert found.image_id == "sha256:5e35e350aded"
    packages = {package.name: package for package in found.packages}
    openssl = packages["openssl-libs"]
    assert openssl.version == "1:1.0.2k-16.el7"
    assert (openssl.source_name, openssl.source_version) == ("openssl", "1:1.0.2k-16.el7")
    assert packages["golang.org/x/net"].version == "v0.1.0"
    assert "nameless: has no package URL" in said(found)
    assert "bad: package URL" in said(found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "no JSON"),
        ("[]", "no bomFormat"),
        ('{"spdxVersion": "SPDX-2.3"}', "no bomFormat CycloneDX"),
        ('{"bomFormat": "CycloneDX", "specVersion": "9"}', "CycloneDX '9'; expected 1.2 to 1.7"),
    ],
)
def test_what_is_no_bill_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    """In one line."""
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ImageError, match=reason):
        read_cyclonedx(path, 1)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(max_size=5), st.integers()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["type", "name", "version", "purl", "components", "properties", "value", "evidence"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(metadata=JSON, components=JSON)
def test_any_bill_gives_an_inventory(
    tmp_path_factory: pytest.TempPathFactory, metadata: Any, components: Any
) -> None:
    """Whatever stands where something else is expected."""
    path = tmp_path_factory.mktemp("bill") / "x.json"
    path.write_text(
        json.dumps(
            {"bomFormat": "CycloneDX", "specVersion": "1.6", "metadata": metadata,
             "components": components}
        )
    )  # fmt: skip
    found = read_cyclonedx(path, 1)
    assert found.source == "SBOM"


EXAMPLE = Inventory(
    "sha256:1", Distribution("debian", "12", "bookworm", "Debian", ("a", "b")),
    (Package("deb", "a", "1", "b", "2", "amd64", "pkg:deb/a", "/x", "sha256:2", ("/bin/a",), "o"),),
    (Omission("/y", "broken"),), "a:1", "overlay", ("sha256:2",), 10, READER, 5, 0.5,
)  # fmt: skip


def test_an_inventory_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    """By its id, the beginning of it, or its name; one that may be had better is not."""
    with closing(InventoryCache(tmp_path / "images.db")) as cache:
        cache.put(EXAMPLE)
        cache.put(replace(EXAMPLE, image_id=""))
        cache.put(replace(EXAMPLE, image_id="sha256:not", final=False))
        assert cache.get("sha256:1") == EXAMPLE
        assert [entry.image_id for entry in cache.list()] == ["sha256:1"]
        cache.put(replace(EXAMPLE, image_id="sha256:abcd1", reference="b:latest"))
        assert cache.find("b") == "sha256:abcd1"
        assert cache.find("abcd") == "sha256:abcd1"
        assert cache.find("nothing") is None
        cache.put(replace(EXAMPLE, image_id="sha256:abcd2", reference="c:1"))
        with pytest.raises(ImageError, match="2 begin like that"):
            cache.find("abcd")
        cache.remove("sha256:1")
        assert cache.get("sha256:1") is None
    assert unpack(pack(EXAMPLE)).seconds == 0.5


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    """Those that were asked for last."""
    with closing(InventoryCache(tmp_path / "images.db", keep=2)) as cache:
        for number in (1, 2):
            cache.put(replace(EXAMPLE, image_id=f"sha256:{number}"))
        cache.get("sha256:1")
        cache.put(replace(EXAMPLE, image_id="sha256:3"))
        assert {entry.image_id for entry in cache.list()} == {"sha256:1", "sha256:3"}


def test_a_kept_inventory_that_is_damaged_is_read_again(tmp_path: Path) -> None:
    """And a database that is none is an error of ours."""
    with closing(InventoryCache(tmp_path / "images.db")) as cache:
        cache.put(EXAMPLE)
        with closing(sqlite3.connect(tmp_path / "images.db")) as db:
            db.execute("UPDATE inventories SET content = x'00'")
            db.commit()
        assert cache.get("sha256:1") is None
        assert cache.list() == []
    (tmp_path / "other.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(StateError, match="remove it: images are read again"):
        InventoryCache(tmp_path / "other.db")
    with closing(sqlite3.connect(tmp_path / "later.db")) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StateError, match="written by a later Rote"):
        InventoryCache(tmp_path / "later.db")
