"""Images that tests make: layers, archives and programs, byte by byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from sensor.images.archive import open_image
from sensor.images.inventory import take_inventory
from sensor.images.package import Inventory

DATA = Path(__file__).parent / "images_data"
DEBIAN = b'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n'
BASH = (
    b"Package: bash\nEssential: yes\nStatus: install ok installed\nArchitecture: amd64\n"
    b"Version: 5.2.15-2+b2\nSource: bash (5.2.15-2)\nDescription: shell\n Version: 9\n"
)

Content = bytes | str | None  # of a file; the target of a link; nothing: a directory


def layer(entries: Mapping[str, Content], modes: Mapping[str, int] | None = None) -> bytes:
    """A layer's tar. Text is a symbolic link's target, unless it begins with "=": a hard link's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.mode = (modes or {}).get(name, 0o644)
            if content is None:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            elif isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type = tarfile.LNKTYPE if content.startswith("=") else tarfile.SYMTYPE
                member.linkname = content.removeprefix("=")
                tar.addfile(member)
    return buffer.getvalue()


def unpack_to(root: Path, entries: Mapping[str, Content]) -> Path:
    """The same as files of a directory."""
    for name, content in entries.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.symlink_to(content)
    return root


def config(layers: Sequence[bytes]) -> bytes:
    """An image's configuration."""
    return json.dumps(
        {"architecture": "amd64", "os": "linux",
         "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]}}
    ).encode()  # fmt: skip


def digest(data: bytes) -> str:
    """As images name things."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def docker_archive(path: Path, layers: Sequence[bytes], tags: Sequence[str] = ("web:1",)) -> Path:
    """What `docker save` writes."""
    facts = config(layers)
    names = [f"{i}/layer.tar" for i in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": names}]
    entries: dict[str, Content] = dict(zip(names, layers, strict=True))
    entries |= {"config.json": facts, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(layer(entries))
    return path


def oci_layout(
    path: Path, layers: Sequence[bytes], pack: str = "gzip", name: str = "web:1"
) -> Path:
    """An OCI layout in a directory."""
    import zstandard

    def packed(data: bytes) -> bytes:
        if pack == "gzip":
            return gzip.compress(data, 1, mtime=0)
        return zstandard.ZstdCompressor().compress(data) if pack == "zstd" else data

    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    base = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "config": put(config(layers), base + "config.v1+json"),
        "layers": [put(packed(data), f"{base}layer.v1.tar+{pack}") for data in layers],
    }
    entry = put(json.dumps(manifest).encode(), base + "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


def inventory(path: Path, image: str = "") -> Inventory:
    """What is in an image."""
    with open_image(path, image) as files:
        return take_inventory(files)


def named(found: Inventory) -> set[str]:
    """The packages in few words."""
    return {f"{p.ecosystem}:{p.name}@{p.version}" for p in found.packages}


def said(found: Inventory) -> str:
    """All warnings."""
    return "\n".join(map(str, found.warnings))


def elf(sections: Mapping[bytes, bytes], *, wide: bool = True, order: str = "<") -> bytes:
    """A program with these sections and nothing else."""
    names = b"\0" + b"\0".join(sections) + b"\0.shstrtab\0"
    head = 64 if wide else 52
    body, table = b"", []
    for name, data in [*sections.items(), (b".shstrtab", names)]:
        body += b"\0" * (-(head + len(body)) % 16)
        table.append((names.index(name), 1, head + len(body), len(data)))
        body += data
    at = head + len(body)
    headers = bytes(64 if wide else 40)
    for name_at, kind, start, size in table:
        if wide:
            headers += struct.pack(
                order + "IIQQQQIIQQ", name_at, kind, 2, 0, start, size, 0, 0, 1, 0
            )
        else:
            headers += struct.pack(order + "10I", name_at, kind, 2, 0, start, size, 0, 0, 1, 0)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    count = len(table) + 1
    if wide:
        rest = struct.pack(
            order + "HHIQQQIHHHHHH", 2, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, count, count - 1
        )
    else:
        rest = struct.pack(
            order + "HHIIIIIHHHHHH", 2, 3, 1, 0, 0, at, 0, 52, 0, 0, 40, count, count - 1
        )
    return ident + rest + body + headers


GO_FRAME = (
    bytes.fromhex("3077af0c9274080241e1c107e6d618e6"),
    bytes.fromhex("f932433186182072008242104116d8f2"),
)


def go_program(modules: str, version: str = "go1.21.3") -> bytes:
    """A program as Go 1.18 and later links it."""

    def text(data: bytes) -> bytes:
        length, out = len(data), b""
        while length > 0x7F:
            out += bytes([length & 0x7F | 0x80])
            length >>= 7
        return out + bytes([length]) + data

    info = b"\xff Go buildinf:\x08\x02".ljust(32, b"\0")
    info += text(version.encode()) + text(GO_FRAME[0] + modules.encode() + GO_FRAME[1])
    return elf({b".text": b"\xc3" * 64, b".go.buildinfo": info})


def rust_program(packages: object) -> bytes:
    """A program as cargo-auditable links it."""
    return elf({b".dep-v0": zlib.compress(json.dumps({"packages": packages}).encode())})


def jar(members: Mapping[str, bytes], *, stored: bool = False, before: bytes = b"") -> bytes:
    """An archive of Java."""
    buffer = io.BytesIO()
    how = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return before + buffer.getvalue()


def pom(group: str, artifact: str, version: str) -> dict[str, bytes]:
    """What Maven puts into an archive."""
    text = f"#Generated\ngroupId={group}\nartifactId={artifact}\nversion={version}\n"
    return {f"META-INF/maven/{group}/{artifact}/pom.properties": text.encode()}
