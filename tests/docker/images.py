"""Images without a registry: busybox, and services out of the distribution's own packages.

One small root directory holds nginx, Redis, PostgreSQL and the load generators (wrk,
redis-benchmark, pgbench). It is made once by mmdebstrap from the mirrors this host uses, kept
under ``$XDG_CACHE_HOME`` (else ``/var/cache``) by a key of everything that went into it, and
becomes one image for each service. The entrypoints do what those of the official images do.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sensor.demo.busybox import root_archive
from tests.docker.client import Docker
from tests.docker.engine import EngineError, program

BUSYBOX = "rote-test/busybox:1"
PACKAGES = ("nginx-light", "postgresql", "redis-server", "wrk")
BUILD_SECONDS = 900

# Like docker-entrypoint.sh and docker-entrypoint.d/10-listen-on-ipv6-by-default.sh of the official
# image: the configuration is changed in place at every first start.
NGINX_ENTRYPOINT = r"""#!/bin/sh
set -e
if [ "$1" = nginx ]; then
	sed -i -E 's,^(\s*worker_processes\s+).*;,\12;,' /etc/nginx/nginx.conf
	find /etc/nginx/conf.d -type f -name '*.conf' | sort
	ln -sf /dev/stdout /var/log/nginx/access.log
	ln -sf /dev/stderr /var/log/nginx/error.log
fi
exec "$@"
"""

# Like the official image's: hand the data over to the service's user, then become it.
REDIS_ENTRYPOINT = r"""#!/bin/sh
set -e
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
	find . \! -user redis -exec chown redis '{}' +
	exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi
umask 0077
exec "$@"
"""

# Like the official image's: initdb, a server on a socket only for the set-up, then the real one.
POSTGRES_ENTRYPOINT = r"""#!/bin/bash
set -Eeo pipefail
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA" /var/run/postgresql
	chown -R postgres "$PGDATA" /var/run/postgresql
	chmod 700 "$PGDATA"
	exec setpriv --reuid=postgres --regid=postgres --init-groups "$BASH_SOURCE" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --username=postgres --auth-host=scram-sha-256 \
		--pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
	echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
	pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
	psql -v ON_ERROR_STOP=1 --no-password -U postgres -c 'CREATE DATABASE bench'
	pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
"""

_FILES = {
    "usr/local/bin/nginx-entrypoint.sh": NGINX_ENTRYPOINT,
    "usr/local/bin/redis-entrypoint.sh": REDIS_ENTRYPOINT,
    "usr/local/bin/postgres-entrypoint.sh": POSTGRES_ENTRYPOINT,
    # Initialised by the entrypoint, as the official image does, and not by the package.
    "etc/postgresql-common/createcluster.conf": "create_main_cluster = false\n",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the common root becomes the image of one service."""

    name: str
    changes: tuple[str, ...]  # as for docker commit --change
    options: tuple[str, ...] = ()  # for docker run; what commit cannot change

    @property
    def reference(self) -> str:
        """The name that the Engine knows it by."""
        return f"rote-test/{self.name}:1"


NGINX = Recipe(
    "nginx",
    (
        'ENTRYPOINT ["/usr/local/bin/nginx-entrypoint.sh"]',
        'CMD ["nginx", "-g", "daemon off;"]',
        "EXPOSE 80",
    ),
    options=("--stop-signal", "SIGQUIT"),
)
REDIS = Recipe(
    "redis",
    (
        'ENTRYPOINT ["/usr/local/bin/redis-entrypoint.sh"]',
        'CMD ["redis-server", "--save", "5 1", "--appendonly", "yes", "--dir", "/data"]',
        "WORKDIR /data",
        "EXPOSE 6379",
    ),
)
POSTGRES = Recipe(
    "postgres",
    (
        'ENTRYPOINT ["/usr/local/bin/postgres-entrypoint.sh"]',
        'CMD ["postgres", "-c", "listen_addresses=*"]',
        "ENV PGDATA=/var/lib/postgresql/data",
        "ENV POSTGRES_PASSWORD=rote",
        "EXPOSE 5432",
    ),
    options=("--stop-signal", "SIGINT"),
)
LOAD = Recipe("load", ('CMD ["true"]',))
RECIPES = (NGINX, REDIS, POSTGRES, LOAD)


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system that several images are made of."""

    packages: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)  # there before packages are installed
    commands: Sequence[str] = ()  # shell, with the root as $1, when all is installed
    name: str = "services"  # of its archive in the cache


BASE = Root(PACKAGES, _FILES, ('mkdir -p "$1"/data && chroot "$1" chown redis /data',))


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


def import_services(docker: Docker) -> None:
    """All images of ``RECIPES``. The first time on a machine this builds the common root."""
    base = import_root(docker, BASE)
    for recipe in RECIPES:
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
        files: a tar archive that is unpacked over the root.
    """
    if docker.has_image(recipe.reference):
        docker("rmi", "--force", recipe.reference)
    scratch = docker("create", base, "true")
    try:
        if files:
            docker("cp", "-", f"{scratch}:/", stdin=files)
        changes = [word for change in recipe.changes for word in ("--change", change)]
        docker("commit", *changes, scratch, recipe.reference, timeout=120)
    finally:
        docker("rm", scratch)


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
