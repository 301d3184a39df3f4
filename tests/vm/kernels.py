"""Debian's cloud kernels: which there are, and how they get into the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.vm.disk import make_image
from tests.vm.host import VmError, cache_dir, call, say
from tests.vm.mirror import find_mirror

_VERSION = 1  # of what is made here; part of the cache key

# Name on the command line → Debian suites that have it. A series may move on inside its suite
# (backports, sid): what counts is the release that the results name.
KERNELS: dict[str, tuple[str, ...]] = {
    "5.10": ("bullseye-security",),
    "6.1": ("bookworm", "bookworm-security"),
    "6.12": ("trixie", "trixie-security"),
    "6.18": ("trixie-backports",),
    "newest": ("sid",),
}
# The image package of newer series is empty and depends on these parts.
_PART = re.compile(r"linux-(image|binary|modules|base)-\d.*-cloud-amd64")


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache."""

    name: str
    release: str
    image: Path
    modules: Path


def find_kernel(name: str, *, refresh: bool = False) -> Kernel:
    """The kernel of that name, downloaded when the cache does not have it.

    The caller holds the cache's lock.

    Args:
        name: a key of ``KERNELS``.
        refresh: ask the mirror for its newest release of this kernel.

    Raises:
        VmError: there is no such kernel, or it cannot be downloaded or unpacked.
    """
    if name not in KERNELS:
        raise VmError(f"kernel {name!r}: unknown; expected one of {', '.join(KERNELS)}")
    suites = KERNELS[name]
    key = hashlib.sha256(f"{_VERSION} {name} {suites}".encode()).hexdigest()[:12]
    home = cache_dir() / f"kernel-{name}-{key}"
    if refresh or not (home / "release").exists():
        with tempfile.TemporaryDirectory(prefix=f".kernel-{name}-", dir=cache_dir()) as scratch:
            made = _make(name, suites, Path(scratch))
            shutil.rmtree(home, ignore_errors=True)
            made.rename(home)
    release = (home / "release").read_text().strip()
    return Kernel(name, release, home / "vmlinuz", home / "modules.img")


def _make(name: str, suites: Iterable[str], scratch: Path) -> Path:
    packages = _download(name, suites, scratch / "apt")
    tree = scratch / "tree"
    for package in packages:
        call(["dpkg-deb", "-x", package, tree], what=f"kernel {name}: unpacking {package.name}")
    # Up to 6.12 in /lib/modules and /boot, later in /usr/lib/modules.
    modules = [path for path in tree.glob("**/lib/modules/*") if (path / "kernel").is_dir()]
    images = [*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz")]
    if len(modules) != 1 or len(images) != 1:
        raise VmError(
            f"kernel {name}: {', '.join(path.name for path in packages)}: expected one vmlinuz "
            f"and one module tree, found {len(images)} and {len(modules)}"
        )
    release = modules[0].name
    done = scratch / "done"
    packed = scratch / "modules"
    (packed / "lib/modules").mkdir(parents=True)
    done.mkdir()
    shutil.copyfile(images[0], done / "vmlinuz")
    modules[0].rename(packed / "lib/modules" / release)
    call(["depmod", "-b", packed, release], what=f"kernel {name}: module dependencies")
    make_image(packed / "lib/modules", done / "modules.img", spare_mib=16, partition=False)
    (done / "release").write_text(f"{release}\n")
    return done


def _download(name: str, suites: Iterable[str], apt: Path) -> list[Path]:
    """The packages of a kernel, by apt with sources of its own: signatures are checked."""
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (apt / folder).mkdir(parents=True)
    (apt / "sources.list").write_text(find_mirror().sources(suites))
    (apt / "status").touch()
    options = [
        f"-oDir::Etc::sourcelist={apt}/sources.list",
        "-oDir::Etc::sourceparts=/dev/null",
        "-oDir::Etc::preferencesparts=/dev/null",
        f"-oDir::State::lists={apt}/lists",
        f"-oDir::State::status={apt}/status",
        f"-oDir::Cache={apt}/cache",
        "-oAPT::Architecture=amd64",
        "-oAPT::Architectures=amd64",
        "-oAPT::Sandbox::User=root",
        "-oAPT::Update::Post-Invoke-Success::=true",
        "-oAcquire::Languages=none",
        "-oAcquire::Retries=3",
    ]
    say(f"kernel {name}: downloading from {', '.join(suites)}")
    call(["apt-get", *options, "-q", "update"], what=f"kernel {name}: package lists")
    wanted: list[str] = []
    queue = ["linux-image-cloud-amd64"]
    while queue:
        text = call(
            ["apt-cache", *options, "--important", "depends", queue.pop()],
            what=f"kernel {name}: which package it is",
        )
        for package in re.findall(r"Depends: (\S+)", text):
            if _PART.fullmatch(package) and package not in wanted:
                wanted.append(package)
                queue.append(package)
    if not wanted:
        raise VmError(f"kernel {name}: {', '.join(suites)} has no linux-image-cloud-amd64")
    # apt-get download writes into the working directory.
    script = 'cd "$1" && shift && exec apt-get "$@"'
    call(
        ["sh", "-c", script, "sh", apt / "debs", *options, "-q", "download", *wanted],
        what=f"kernel {name}: {' '.join(wanted)}",
    )
    return sorted((apt / "debs").glob("*.deb"))
