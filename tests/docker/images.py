"""Images without a registry: busybox, and services out of the distribution's own packages.

One root directory holds several services and their clients (``tests.services``). It is made once
by mmdebstrap from the mirrors this host uses, kept under ``$XDG_CACHE_HOME`` (else ``/var/cache``)
by a key of everything that went into it, and becomes one image for each service.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from sensor.demo.busybox import root_archive
from tests.docker.client import Docker
from tests.docker.engine import EngineError, program
from tests.services.common import BASE_ROOT, BASIC_RECIPES
from tests.services.recipe import Recipe, Root

BUSYBOX = "rote-test/busybox:1"
BUILD_SECONDS = 900


def cache_folder() -> Path:
    """Where built roots are kept between runs; outside of the repository."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache", "rote-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def import_busybox(docker: Docker) -> str:
    """An image of nothing but busybox with all its applets; its name."""
    if not docker.has_image(BUSYBOX):
        docker("import", "--change", 'CMD ["sh"]', "-", BUSYBOX, stdin=busybox_root())
    return BUSYBOX


def busybox_root() -> bytes:
    """A root file system of busybox, as a tar archive: the same bytes every time."""
    return root_archive(
        ("dev", "etc", "proc", "root", "sys", "tmp", "var", "var/log", "www"),
        {
            "etc/passwd": (0o644, "root:x:0:0:root:/root:/bin/sh\n"),
            "etc/group": (0o644, "root:x:0:\n"),
        },
    )


def import_services(
    docker: Docker,
    root: Root = BASE_ROOT,
    recipes: Iterable[Recipe] = BASIC_RECIPES,
) -> None:
    """Images of services. The first time on a machine this builds the root that they share."""
    base = import_root(docker, root)
    for recipe in recipes:
        commit(docker, base, recipe)


def import_root(docker: Docker, root: Root) -> str:
    """An image of a root as it is; its name. The first time on a machine this builds the root."""
    key = root_key(root)
    base = f"rote-test/{root.name}-root:{key}"
    if not docker.has_image(base):
        docker("import", str(build_root(key, root)), base, timeout=300)
    return base


def commit(docker: Docker, base: str, recipe: Recipe, files: bytes = b"") -> None:
    """Make the image of one service out of a root, anew.

    Args:
        docker: the Engine.
        base: name of the root's image.
        recipe: what becomes of it.
        files: a tar archive that is unpacked over the root, besides the recipe's own files.
    """
    if docker.has_image(recipe.reference):
        docker("rmi", "--force", recipe.reference)
    scratch = docker("create", base, "true")
    try:
        for archive in (_archive(recipe.files), files):
            if archive:
                docker("cp", "-", f"{scratch}:/", stdin=archive)
        changes = [word for change in recipe.changes for word in ("--change", change)]
        docker("commit", *changes, scratch, recipe.reference, timeout=120)
    finally:
        docker("rm", scratch)


def _archive(files: Mapping[str, str]) -> bytes:
    if not files:
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            entry.mode = 0o755 if name.endswith(".sh") else 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def root_key(root: Root) -> str:
    """16 hex digits over everything that decides what a root holds."""
    digest = hashlib.sha256()
    files = (f"{name}\0{text}" for name, text in root.files.items())
    for part in (*root.packages, *_mirrors(), *files, *root.commands):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def build_root(key: str, root: Root) -> Path:
    """The tar archive of a root, from the cache where it is there already.

    Raises:
        EngineError: mmdebstrap is missing or failed; quotes its last words.
    """
    archive = cache_folder() / f"{root.name}-{key}.tar"
    if archive.exists():
        return archive
    with tempfile.TemporaryDirectory(prefix="rote-root-", dir=archive.parent) as scratch:
        overlay = Path(scratch, "files")
        overlay.mkdir()
        for name, text in root.files.items():
            path = overlay / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name.endswith(".sh") else 0o644)
        acquire = Path(scratch, "acquire.conf")
        acquire.write_text(_apt_transport())
        unfinished = Path(scratch, "root.tar")
        result = subprocess.run(
            [
                program("mmdebstrap"),
                "--variant=apt",
                "--mode=root",
                f"--include={','.join(root.packages)}",
                f"--aptopt={acquire}",
                '--aptopt=APT::Install-Recommends "false"',
                '--aptopt=APT::Sandbox::User "root"',
                "--dpkgopt=force-unsafe-io",
                *(
                    f"--dpkgopt=path-exclude=/usr/share/{folder}/*"
                    for folder in ("doc", "info", "locale", "man")
                ),
                f'--essential-hook=cp -R {shlex.quote(str(overlay))}/. "$1"/',
                *(f"--customize-hook={command}" for command in root.commands),
                '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/*',
                _release()["VERSION_CODENAME"],
                str(unfinished),
                "-",
            ],
            input="\n".join(_mirrors()) + "\n",
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
        )
        if result.returncode != 0:
            words = " | ".join(result.stderr.strip().splitlines()[-6:])
            raise EngineError(f"mmdebstrap: exit {result.returncode}: {words}")
        shutil.move(unfinished, archive)
    return archive


def _mirrors() -> list[str]:
    """The distribution's own package sources on this host, as lines of a sources.list."""
    release = _release()
    lines = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|deb $(REPO_URI) $(CODENAME) $(COMPONENT)",
            "Identifier: Packages",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()
    mirrors: list[str] = []
    for line in lines:
        origin, _, source = line.partition("|")
        if origin.lower() == release["ID"] and source not in mirrors:
            mirrors.append(source)
    if not mirrors:
        raise EngineError(
            f"apt: no package source of {release['ID']} is set up; expected the mirrors that this "
            "host was installed from: run apt-get update"
        )
    return mirrors


def _apt_transport() -> str:
    """How this host's apt reaches its mirrors: proxies and the like."""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-Valid-Until", "Acquire::Retries")
    lines = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted)) + "\n"


def _release() -> dict[str, str]:
    pairs = (
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    return {key: shlex.split(value)[0] if value else "" for key, value in pairs}


def remove_all(docker: Docker) -> None:
    """Take every image of ours from an Engine that goes on without us."""
    listed = docker("images", "--format", "{{.Repository}}:{{.Tag}}", check=False).split()
    if ours := [name for name in listed if name.startswith("rote-test/")]:
        docker("rmi", "--force", *ours, timeout=120, check=False)
