"""Debian's cloud kernels: which there are, and how they get into the cache."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm import disk
from tests.vm.host import VmError, cache_dir, call, key_of, say, scratch_dir
from tests.vm.mirror import find_mirror

# Series → Debian suites to look for it in, one after the other.
KERNELS: dict[str, tuple[str, ...]] = {
    "5.10": ("bullseye-security",),
    "6.1": ("bookworm-security", "bookworm"),
    "6.12": ("trixie-security", "trixie"),
    "6.18": ("trixie-backports", "sid"),
    "7.2": ("sid",),
}
DEFAULT = ("6.1", "6.12")
# The image package of newer series is empty and depends on these parts.
_PART = re.compile(r"linux-(image|binary|modules|base)-\d.*-cloud-amd64")
_IMAGE = re.compile(r"^linux-image-(\d+\.\d+)\S*-cloud-amd64$", re.MULTILINE)


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache."""

    name: str
    release: str
    image: Path
    modules: Path


class KernelMissingError(VmError):
    """The mirror does not have this kernel."""


def find_kernel(name: str) -> Kernel:
    """The kernel of that name, downloaded when the cache does not have it.

    The caller holds the cache's lock.

    Args:
        name: a key of ``KERNELS``.

    Raises:
        KernelMissingError: the mirror's suites do not have it.
        VmError: it cannot be downloaded or unpacked.
    """
    key = key_of([Path(path).read_text() for path in (__file__, disk.__file__)])
    home = cache_dir() / f"kernel-{name}-{key}"
    if not home.exists():
        with scratch_dir() as scratch:
            made = _make(name, scratch)
            for old in cache_dir().glob(f"kernel-{name}-*"):
                shutil.rmtree(old)
            made.rename(home)
    release = (home / "release").read_text().strip()
    return Kernel(name, release, home / "vmlinuz", home / "modules.img")


def _make(name: str, scratch: Path) -> Path:
    packages = _download(name, scratch / "apt")
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
    shutil.move(images[0], done / "vmlinuz")
    modules[0].rename(packed / "lib/modules" / release)
    call(["depmod", "-b", packed, release], what=f"kernel {name}: module dependencies")
    disk.make_image(packed / "lib/modules", done / "modules.img", spare_mib=16, partition=False)
    (done / "release").write_text(f"{release}\n")
    return done


def _download(name: str, apt: Path) -> list[Path]:
    """The packages of a kernel, by apt with sources of its own: signatures are checked."""
    for folder in ("lists/partial", "cache/archives/partial", "debs"):
        (apt / folder).mkdir(parents=True)
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
        "-oAPT::Update::Error-Mode=any",
        "-oAcquire::Languages=none",
        "-oAcquire::Retries=3",
    ]
    reasons = []
    for suite in KERNELS[name]:
        say(f"kernel {name}: downloading from {suite}")
        (apt / "sources.list").write_text(find_mirror().sources([suite]))
        try:
            call(["apt-get", *options, "-q", "update"], what=suite)
        except VmError as error:
            reasons.append(str(error))
            continue
        names = call(["apt-cache", *options, "pkgnames", "linux-image-"], what=suite)
        found = [match[0] for match in _IMAGE.finditer(names) if match[1] == name]
        if not found:
            series = sorted({match[1] for match in _IMAGE.finditer(names)})
            reasons.append(f"{suite} has {', '.join(series) or 'no cloud kernel'}")
            continue
        wanted = _with_parts(_newest(found), options)
        # apt-get download writes into the working directory.
        script = 'cd "$1" && shift && exec apt-get "$@"'
        call(
            ["sh", "-c", script, "sh", apt / "debs", *options, "-q", "download", *wanted],
            what=f"kernel {name}: {' '.join(wanted)}",
        )
        return sorted((apt / "debs").glob("*.deb"))
    raise KernelMissingError(f"not on the mirror: {'; '.join(reasons)}")


def _newest(packages: Sequence[str]) -> str:
    return max(packages, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _with_parts(image: str, options: Sequence[str]) -> list[str]:
    wanted = [image]
    for package in wanted:  # grows while it is walked
        text = call(["apt-cache", *options, "--important", "depends", package], what=package)
        for part in re.findall(r"Depends: (\S+)", text):
            if _PART.fullmatch(part) and part not in wanted:
                wanted.append(part)
    return wanted
