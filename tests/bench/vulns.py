"""How fast images are matched against advisories, in how much memory, and how it agrees with Trivy.

    python -m tests.bench.vulns [--advisories 50000] [--images 1000] [--data DIRECTORY]

Without ``--data`` the advisories are made up, in the proportions of Debian's lists: some 6 packages
of 10 are in them, most advisories are older than what is installed. ``--data`` names the folder of
genuine data (tests of shared/data): its feeds are imported and timed, Debian buster's packages and
Alpine 3.9's are matched, and what is found is held against Trivy's reports of the same images.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensor.images.package import Distribution, Inventory, Package
from sensor.images.vulns.importer import import_feed
from sensor.images.vulns.matcher import Matcher
from sensor.images.vulns.reports import read_report
from sensor.images.vulns.store import VulnStore

BUSTER = Distribution("debian", "10", "buster")
SOURCES = 541  # source packages of a Debian host with 928 binary packages
_KNOWN = 330  # of them that advisories are about
_NAMES = 2500  # source packages in all of Debian's lists
_FEEDS = (
    "debian/DSA.list", "debian/DLA.list", "debian/tracker-sample.json",
    "alpine-secdb/v3.9/main.yaml", "alpine-secdb/v3.9/community.yaml", "reports/kev.json",
    "osv/almalinux.tar.xz", "osv/pypa-advisories.tar.xz",
)  # fmt: skip


def say(text: str) -> None:
    """A line of results."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Watch:
    """Time since it was made: on the clock, and of the processor. On a busy machine they differ."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    @property
    def processor(self) -> float:
        """Seconds of the processor."""
        return time.process_time() - self._processor

    def __str__(self) -> str:
        wall = time.perf_counter() - self._wall
        return f"{wall:.1f} s ({self.processor:.1f} s of the processor)"


def advisories(count: int, seed: int = 1) -> Iterator[str]:
    """A list as Debian writes it, with so many rows for buster."""
    rng = random.Random(seed)
    for i in range(count):
        # Few packages have most advisories.
        package = int(_NAMES * rng.random() ** 2)
        version = (
            f"{rng.randint(0, 3)}.{rng.randint(0, 30)}.{rng.randint(0, 9)}-{rng.randint(1, 5)}"
        )
        day = f"{rng.randint(1, 28):02} Jan {rng.randint(2010, 2023)}"
        yield (
            f"[{day}] DSA-{i}-1 p{package} - security update\n"
            f"\t{{CVE-{rng.randint(2010, 2023)}-{10000 + i}}}\n"
            f"\t[buster] - p{package} {version}+deb10u{rng.randint(1, 9)}\n"
        )


def inventory(seed: int, versions: int = 20) -> Inventory:
    """An image of so many source packages; images share most versions, as real ones do."""
    rng = random.Random(seed)
    packages = []
    for i in range(SOURCES):
        name = f"p{i * 7 % _NAMES}" if i < _KNOWN else f"q{i}"
        version = f"3.{28 + rng.randint(0, versions) % 3}.{rng.randint(0, versions)}-2"
        packages.append(Package("deb", f"lib{name}", version, name, version))
    return Inventory(f"sha256:{seed}", BUSTER, tuple(packages))


def store_of(directory: Path, count: int) -> VulnStore:
    """A store with so many advisories; says how long the import took."""
    path = directory / "DSA.list"
    with path.open("w") as file:
        file.writelines(advisories(count))
    store = VulnStore(directory / f"vulns-{count}.db")
    watch = Watch()
    done = import_feed(store, path)
    size = store.path.stat().st_size / 1e6
    say(f"import of {done.records} advisories: {watch}, {size:.1f} MB")
    return store


def one_image(directory: Path, count: int) -> None:
    """One image: the first time, and again by the same matcher."""
    store = store_of(directory, count)
    store.close()
    clock, processor, found = [], [], 0
    for seed in range(41):
        image = inventory(seed)
        store = VulnStore(store.path)
        matcher = Matcher(store)
        watch, began = Watch(), time.perf_counter()
        found = len(matcher.match(image).findings)
        clock.append((time.perf_counter() - began) * 1e3)
        processor.append(watch.processor * 1e3)
        store.close()
    say(
        f"{SOURCES} source packages x {count} advisories, {found} findings, nothing remembered: "
        f"median {sorted(clock)[20]:.1f} ms, best {min(clock):.1f} ms; of the processor "
        f"{sorted(processor)[20]:.1f} ms"
    )


def many_images(directory: Path, images: int, count: int) -> None:
    """Many images by one matcher, in a process of its own, so that its memory is its own."""
    store_of(directory, count).close()
    command = [sys.executable, "-m", "tests.bench.vulns", "--child"]
    command += [str(directory), str(images), str(count)]
    subprocess.run(command, check=True)


def child(directory: Path, images: int, count: int) -> None:
    """See ``many_images``."""
    store = VulnStore(directory / f"vulns-{count}.db")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    matcher, found = Matcher(store), 0
    watch = Watch()
    for seed in range(images):
        found += len(matcher.match(inventory(seed)).findings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(
        f"{images} images x {count} advisories, {found} findings: {watch}, "
        f"{watch.processor / images * 1e3:.1f} ms of the processor an image, "
        f"peak memory {peak:.0f} MB ({before:.0f} MB before)"
    )


def genuine(directory: Path, data: Path) -> None:
    """Real feeds, real images, and Trivy's opinion of the same images."""
    store = VulnStore(directory / "genuine.db")
    for name in _FEEDS:
        watch = Watch()
        done = import_feed(store, data / name)
        say(f"{name}: {done.kind}, {done.records} records, {done.skipped} skipped, {watch}")
    packages = json.loads((data / "debian/buster-packages.json").read_bytes())
    buster = Inventory("", BUSTER, tuple(map(_of_trivy, packages)))
    watch = Watch()
    found = Matcher(store).match(buster)
    say(
        f"Debian buster, {len(packages)} packages: {len(found.findings)} vulnerabilities in "
        f"{len({f.package for f in found.findings})} source packages, "
        f"{watch.processor * 1e3:.1f} ms of the processor"
    )
    alpine = Inventory("", Distribution("alpine", "3.9.4"), _ALPINE)
    _compare("Alpine 3.9", store, alpine, data / "reports/trivy-alpine-39.json")
    _compare("Debian buster", store, buster, data / "reports/trivy-debian-buster.json")


# What the image of the report has; the report itself lists the vulnerable packages only.
_ALPINE = tuple(
    Package("apk", name, version, source, version)
    for name, version, source in (
        ("musl", "1.1.20-r4", "musl"), ("musl-utils", "1.1.20-r4", "musl"),
        ("libcrypto1.1", "1.1.1b-r1", "openssl"), ("libssl1.1", "1.1.1b-r1", "openssl"),
    )
)  # fmt: skip


def _of_trivy(entry: dict[str, Any]) -> Package:
    def version(prefix: str) -> str:
        epoch, release = entry.get(f"{prefix}Epoch"), entry.get(f"{prefix}Release")
        text = str(entry[f"{prefix}Version"])
        return (f"{epoch}:" if epoch else "") + text + (f"-{release}" if release else "")

    return Package("deb", entry["Name"], version(""), entry["SrcName"], version("Src"))


def _compare(name: str, store: VulnStore, image: Inventory, report: Path) -> None:
    """Entry by entry: a vulnerability in an installed package, with the version that fixes it."""
    theirs = {(f.id, f.package): f.fixed for f in read_report(report).findings}
    ours = {
        (f.id, package): f.fixed
        for f in Matcher(store).match(image).findings
        for package in f.installed
    }
    both = theirs.keys() & ours.keys()
    same = sum(theirs[key] == ours[key] for key in both)
    say(f"{name} against Trivy: {len(both)} in both, {same} with the same fix")
    for key in sorted(theirs.keys() - ours.keys()):
        say(f"  only Trivy: {key[0]} in {key[1]}, fixed in {theirs[key] or '-'}")
    say(f"  only here: {len(ours.keys() - theirs.keys())}")
    for key in sorted(ours.keys() - theirs.keys())[:8]:
        say(f"    {key[0]} in {key[1]}, fixed in {ours[key] or '-'}")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(prog="scripts/bench vulns")
    parser.add_argument("--advisories", type=int, default=50_000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), int(options.child[1]), int(options.child[2]))
        return
    with tempfile.TemporaryDirectory(prefix="rote-bench-") as name:
        directory = Path(name)
        one_image(directory, options.advisories)
        if options.images:
            many_images(directory, options.images, 4 * options.advisories)
        if options.data is not None:
            genuine(directory, options.data)


if __name__ == "__main__":
    main()
