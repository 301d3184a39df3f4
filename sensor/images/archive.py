"""Images as they are stored: `docker save` archives, OCI layouts, tars of a root file system.

Sources: Docker Image Specification 1.2; OCI image layout, index, manifest and config 1.1.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from sensor.errors import ImageError
from sensor.images.content import Content
from sensor.images.directory import DirectoryLayer
from sensor.images.omissions import Omissions, printable
from sensor.images.streams import Scratch, UnpackedSource, compression
from sensor.images.tarlayer import TarLayer
from sensor.images.tree import Tree
from sensor.reading import NOATIME

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a named pipe would be waited for
_JSON_MAX = 16 << 20  # of a manifest, index or config; real ones have some kilobytes
_INDEXES_MAX = 8  # one within the other
_LAYERS_MAX = 1024  # Docker allows 127
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_ROOT_NAMES = ("etc", "usr", "bin", "var", "lib")


@dataclass(slots=True)
class ImageFiles:
    """An image whose files can be read.

    Attributes:
        tree: its file system.
        image_id: ``sha256:…`` of its configuration; "" when it has none.
        reference: what a person calls it; "" when nothing says.
        source: what was opened, for ``Inventory.source``.
        layers: diff ids, lowest first.
        omissions: what of it cannot be read.
        stack: what has to be closed.
        config: the configuration of the image; empty when it has none.
    """

    tree: Tree
    image_id: str = ""
    reference: str = ""
    source: str = ""
    layers: tuple[str, ...] = ()
    omissions: Omissions = field(default_factory=Omissions)
    stack: ExitStack = field(default_factory=ExitStack)
    config: Mapping[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of what is open."""
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_image(path: Path, name: str = "") -> ImageFiles:
    """Open an archive, an OCI layout, or a directory that is a root file system.

    Args:
        path: of it.
        name: which image, where there are several: a reference or the beginning of an id.

    Raises:
        ImageError: it is none of these, or is too damaged to tell.
    """
    stack = ExitStack()
    try:
        opened = _open(path, name, stack)
    except BaseException:
        stack.close()
        raise
    opened.stack = stack
    return opened


def _open(path: Path, name: str, stack: ExitStack) -> ImageFiles:
    omissions = Omissions()
    scratch = Scratch()
    stack.callback(scratch.close)
    if path.is_dir():
        layer = DirectoryLayer(path)
        stack.callback(layer.close)
        tree = Tree([layer], omissions)
        if tree.file("oci-layout") is None or tree.file("index.json") is None:
            return ImageFiles(tree, source="root", reference=str(path), omissions=omissions)
    else:
        tree = Tree([_outer(path, scratch, omissions, stack)], omissions)
    store = _Store(tree, path, scratch, stack)
    if store.has("manifest.json"):
        return _docker(store, name)
    if store.has("index.json"):
        return _oci(store, name)
    if any(known in tree.directory("") for known in _ROOT_NAMES):
        return ImageFiles(tree, source="tar of a root", reference=str(path), omissions=omissions)
    damage = omissions.all()
    raise ImageError(
        f"{path}: "
        + (str(damage[0].reason) if damage else "holds neither an image nor a root")
        + "; expected what `docker save` writes, an OCI layout, or a root file system"
    )


def _outer(path: Path, scratch: Scratch, omissions: Omissions, stack: ExitStack) -> TarLayer:
    """The archive that holds everything, unpacked first when it is compressed as a whole."""
    try:
        try:
            fd = os.open(path, _READ | NOATIME)
        except PermissionError:
            fd = os.open(path, _READ)
    except OSError as error:
        raise ImageError(
            f"{path}: {error.strerror}; expected an archive, a directory or the name of an image"
        ) from error
    stack.callback(os.close, fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise ImageError(f"{path}: is no ordinary file; expected an archive or a directory")
    content = Content(fd, 0, os.fstat(fd).st_size, owned=False)
    try:
        if how := compression(content):
            content = scratch.put_rest(UnpackedSource(content, how, scratch), omissions, str(path))
        return TarLayer(content, "", scratch, omissions, str(path))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


class _Store:
    """Manifests and blobs, by name, in an archive or a layout."""

    def __init__(self, tree: Tree, path: Path, scratch: Scratch, stack: ExitStack) -> None:
        self.tree = tree
        self.path = path
        self.scratch = scratch
        self.stack = stack

    def has(self, name: str) -> bool:
        return self.tree.file(name) is not None

    def content(self, name: str) -> Content:
        found = self.tree.file(name)
        if found is None:
            raise ImageError(f"{self.path}: {printable(name)} is missing")
        content = self.tree.open(found)
        self.stack.callback(content.close)
        return content

    def bytes(self, name: str) -> bytes:
        try:
            return self.content(name).read(_JSON_MAX)
        except ImageError as error:
            text = str(error)
            prefix = "" if text.startswith(str(self.path)) else f"{self.path}: {printable(name)}: "
            raise ImageError(prefix + text) from error

    def json(self, name: str) -> Any:
        try:
            return orjson.loads(self.bytes(name))
        except orjson.JSONDecodeError as error:
            raise ImageError(f"{self.path}: {printable(name)}: no JSON: {error}") from error

    def image(self, config: str, layers: list[str], reference: str, source: str) -> ImageFiles:
        """The image of a configuration and its layers, given by their names, lowest first."""
        data = self.bytes(config)
        omissions = self.tree.omissions
        facts: Any = {}
        try:
            facts = orjson.loads(data)
            diff_ids = [str(diff) for diff in facts["rootfs"]["diff_ids"]]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            omissions.add(config, f"the configuration does not name its layers: {error}")
            diff_ids = []
        if len(layers) > _LAYERS_MAX:
            raise ImageError(f"{self.path}: {len(layers)} layers; at most {_LAYERS_MAX} are read")
        if diff_ids and len(diff_ids) != len(layers):
            omissions.add(
                config, f"the configuration names {len(diff_ids)} layers, the image {len(layers)}"
            )
            diff_ids = []
        opened = []
        for index, name in enumerate(layers):
            diff = printable(diff_ids[index]) if diff_ids else ""
            try:
                opened.append(TarLayer(self.content(name), diff, self.scratch, omissions, name))
            except (ImageError, OSError) as error:
                omissions.add(name, error)
        if layers and not opened:
            raise ImageError(
                f"{self.path}: none of the {len(layers)} layers can be read: {omissions.all()[0]}"
            )
        return ImageFiles(
            Tree(opened[::-1], omissions),
            "sha256:" + hashlib.sha256(data).hexdigest(),
            printable(reference),
            source,
            tuple(printable(diff) for diff in diff_ids),
            omissions,
            config=facts if isinstance(facts, Mapping) else {},
        )


def _docker(store: _Store, name: str) -> ImageFiles:
    entries = [entry for entry in _list(store.json("manifest.json")) if isinstance(entry, Mapping)]
    found = [
        (
            str(entry.get("Config", "")),
            [str(tag) for tag in _list(entry.get("RepoTags"))],
            [str(layer) for layer in _list(entry.get("Layers"))],
        )
        for entry in entries
    ]
    names = {config: tags or [_short(config)] for config, tags, _ in found}
    config = _choose(store, names, name)
    _, tags, layers = next(entry for entry in found if entry[0] == config)
    reference = name if name in tags else (tags[0] if tags else "")
    return store.image(config, layers, reference, "docker archive")


def _oci(store: _Store, name: str) -> ImageFiles:
    manifests: dict[str, list[str]] = {}
    _collect(store, store.json("index.json"), "", manifests, 0)
    chosen = _choose(store, manifests, name)
    manifest = store.json(chosen)
    if not isinstance(manifest, Mapping):
        raise ImageError(f"{store.path}: {chosen}: expected a manifest")
    config = _blob(store, manifest.get("config"))
    layers = [_blob(store, layer) for layer in _list(manifest.get("layers"))]
    names = manifests[chosen]
    reference = name if name in names else names[0]
    return store.image(
        config, layers, "" if reference == _short(chosen) else reference, "OCI layout"
    )


def _collect(
    store: _Store, index: Any, reference: str, manifests: dict[str, list[str]], depth: int
) -> None:
    """The manifests of an index for this host's architecture, by the names of their blobs."""
    if depth > _INDEXES_MAX:
        raise ImageError(f"{store.path}: more than {_INDEXES_MAX} indexes, one within the other")
    entries = index.get("manifests") if isinstance(index, Mapping) else None
    wanted = []
    for entry in _list(entries):
        if not isinstance(entry, Mapping):
            continue
        # What vouches for an image, such as its provenance, calls itself of an unknown platform.
        place = entry.get("platform") or {}
        if isinstance(place, Mapping) and place.get("os", "linux") != "linux":
            continue
        wanted.append((entry, str(place.get("architecture", ""))))
    here = _ARCHITECTURES.get(platform.machine(), platform.machine())
    fitting = [entry for entry, arch in wanted if arch in ("", here)]
    if not fitting and wanted:
        fitting = [wanted[0][0]]
        store.tree.omissions.add(
            "", f"no image for {here}: that for {printable(wanted[0][1])} was read"
        )
    for entry in fitting:
        blob = _blob(store, entry)
        notes = entry.get("annotations") or {}
        said = next(
            (
                str(notes[key])
                for key in ("io.containerd.image.name", "org.opencontainers.image.ref.name")
                if isinstance(notes, Mapping) and notes.get(key)
            ),
            reference,
        )
        if "index" in str(entry.get("mediaType")) or "manifest.list" in str(entry.get("mediaType")):
            _collect(store, store.json(blob), said, manifests, depth + 1)
        else:
            manifests.setdefault(blob, []).append(said or _short(blob))


def _choose(store: _Store, names: Mapping[str, list[str]], name: str) -> str:
    """The one image that is there, or the one that a name means."""
    if not names:
        raise ImageError(f"{store.path}: names no image")
    if name:
        wanted = [
            key
            for key, known in names.items()
            if name in known
            or f"{name}:latest" in known
            or _short(key).startswith(name.removeprefix("sha256:"))
        ]
    else:
        wanted = list(names)
    if len(wanted) == 1:
        return wanted[0]
    shown = ", ".join(printable(known[0]) for known in list(names.values())[:10])
    what = f"no image {name!r}" if name and not wanted else f"{len(wanted)} images"
    raise ImageError(f"{store.path}: {what}; --image chooses one of: {shown}")


def _short(blob: str) -> str:
    """The digest in the name of a blob or a configuration."""
    return blob.rpartition("/")[2].removesuffix(".json")


def _blob(store: _Store, descriptor: Any) -> str:
    digest = str(descriptor.get("digest")) if isinstance(descriptor, Mapping) else ""
    algorithm, colon, value = digest.partition(":")
    if not colon or not algorithm.isalnum() or not value.isalnum():
        raise ImageError(f"{store.path}: digest {printable(digest)!r}; expected sha256:…")
    return f"blobs/{algorithm}/{value}"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
