"""The services that are attacked: their images, what they are put through, how one gets in.

Each has a hole that exploited services have: a page that evaluates what it is given, a database
that lets its users run programs, a cache that lets them say where it writes. While Rote learns,
the hole is open and nobody uses it.
"""

from __future__ import annotations

import functools
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sensor.demo.busybox import root_archive
from tests.docker import images
from tests.docker.client import Docker
from tests.docker.engine import program
from tests.services.recipe import Recipe, Root

_HERE = Path(__file__).parent
_FILES = _HERE / "files"
ROOT = Root(
    (
        "apache2", "curl", "libapache2-mod-php", "nginx-light", "postgresql", "python3",
        "redis-server",
    ),
    # The lock files of PHP's cache have random names: whether those are learned is another matter.
    commands=('chroot "$1" phpdismod opcache',),
    name="attacks",
)  # fmt: skip
CLIENT = Recipe("attack-client", ('CMD ["sleep", "infinity"]',))
# Container paths of what is compiled here.
_COMPILED = {"worker.c": "usr/local/sbin/worker"}


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Scripts run in the client's container, by bash, with HOST: the service's address.
    """

    recipe: Recipe
    ready: str  # ends well when the service answers
    load: str  # ends well when everything that it does was done
    # way in → script that hands over ATTACK and prints what came of it; "" is told by a FIFO
    entries: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As files and options call it."""
        return self.recipe.name.removeprefix("attack-")


def _entrypoint(name: str) -> str:
    return f'ENTRYPOINT ["/usr/local/bin/{name}-entrypoint.sh"]'


# Names as people give them, and as programs do.
_PICTURES = "holiday cat dog tree lake river house garden beach sunset 4f2a91c07be3 91be00d1f7a2"

WEB = Service(
    Recipe("attack-web", (_entrypoint("web"),)),
    ready="curl -sf http://$HOST/status.php",
    load=f"""
    for i in 1 2 3 4 5; do curl -sf -c /tmp/jar -b /tmp/jar http://$HOST/index.php; done
    for name in {_PICTURES}; do
        head -c 2000 /dev/urandom | curl -sf -T - "http://$HOST/upload.php?name=$name.jpg"
    done
    for i in 1 2 3 4 5 6 7 8; do curl -sf http://$HOST/index.php; done
    """,
    entries={
        "shell": 'curl -s -m 20 --data-urlencode "sh=$ATTACK" http://$HOST/status.php',
        "php": 'curl -s -m 20 --data-urlencode "php=$ATTACK" http://$HOST/status.php',
    },
)
APP = Service(
    Recipe("attack-app", (_entrypoint("app"),)),
    ready="curl -sf http://$HOST:8080/",
    load=f"""
    at=http://$HOST:8080
    for i in 1 2 3; do curl -sf $at/; done
    for name in {_PICTURES}; do
        head -c 2000 /dev/urandom | curl -sf -X PUT --data-binary @- "$at/upload?name=$name.jpg"
        curl -sf "$at/thumbnail?name=$name.jpg"
    done
    rm -rf /tmp/many && mkdir /tmp/many && cd /tmp/many
    for name in {_PICTURES}; do echo $name >import-$name.jpg; done
    tar -cf /tmp/many.tar *
    for i in 1 2; do
        curl -sf -T /tmp/many.tar $at/import
        curl -sf "$at/fetch?url=http://127.0.0.1:8080/"
        curl -sf $at/report; curl -sf $at/backup; curl -sf $at/rotate
    done
    """,
    entries={
        "shell": 'curl -s -m 20 --data-binary "$ATTACK" http://$HOST:8080/run',
        "python": 'curl -s -m 20 --data-binary "$ATTACK" http://$HOST:8080/eval',
        "request": 'eval "$ATTACK"',
    },
)
_PSQL = "psql -X -q -At -h $HOST -U postgres -v ON_ERROR_STOP=1"
POSTGRES = Service(
    Recipe(
        "attack-postgres",
        (_entrypoint("postgres"), "ENV PGDATA=/var/lib/postgresql/data"),
        options=("--stop-signal", "SIGINT"),
    ),
    ready=f"{_PSQL} -c 'SELECT 1'",
    load=f"""
    export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"
    pgbench -q -i -s 1 -h $HOST -U postgres postgres
    pgbench -n -c 2 -T 2 -h $HOST -U postgres postgres
    for i in 1 2 3; do
        {_PSQL} -c "COPY pgbench_branches TO '/var/lib/postgresql/export/report-20260$i.csv'" \\
            -c "SET work_mem='64kB'" -c "CREATE TABLE c$i AS SELECT * FROM pgbench_accounts" \\
            -c "CREATE INDEX ON c$i (bid, filler)" -c "VACUUM FULL c$i" -c "DROP TABLE c$i" \\
            -c 'SELECT pg_switch_wal()' -c CHECKPOINT
        sleep 1
    done
    """,
    entries={
        "sql": f'{_PSQL} -c "$ATTACK"',
        "program": f"""{_PSQL} -v "run=$ATTACK" <<<"
            CREATE TABLE said (line text); COPY said FROM PROGRAM :'run'; TABLE said" """,
    },
)
REDIS = Service(
    Recipe("attack-redis", (_entrypoint("redis"), "WORKDIR /data")),
    ready="redis-cli -e -h $HOST get nothing",
    load="""
    redis-benchmark -h $HOST -q -n 5000 -t set,get,lpush
    redis-cli -h $HOST bgrewriteaof; sleep 1
    redis-benchmark -h $HOST -q -n 2000 -t set
    redis-cli -h $HOST bgsave; sleep 6
    redis-cli -h $HOST save
    """,
    entries={"command": 'redis-cli -h $HOST <<<"$ATTACK"'},
)
NGINX = Service(
    Recipe("attack-nginx", (_entrypoint("nginx"),), options=("--stop-signal", "SIGQUIT")),
    ready="curl -sf http://$HOST/api/",
    load="""
    for i in 1 2 3 4 5; do curl -sf http://$HOST/api/; curl -s http://$HOST/not-there; done
    head -c 300000 /dev/urandom | curl -s -T - http://$HOST/api/
    """,
    entries={"shell": 'curl -s -m 20 --data-binary "$ATTACK" http://$HOST/api/'},
)

# A worker of busybox and nothing else: takes jobs out of a FIFO.
_WORKER = r"""#!/bin/sh
mkdir -p /var/out
echo level=debug | sed 's/debug/info/' >/var/out/settings
mkfifo /run/jobs
done=0
while :; do
	while read -r job; do
		case $job in
		tick) (date; gzip -c /etc/passwd >/var/out/copy.gz) >/var/out/answer 2>&1 ;;
		*) (eval "$job") </dev/null >/var/out/answer 2>&1 ;;
		esac
		done=$((done + 1))
		echo $done >/var/out/done
	done </run/jobs
done
"""
BOX = Service(
    Recipe("attack-box", ('CMD ["/worker.sh"]',), options=("--stop-signal", "SIGKILL")),
    ready="tick",
    load="tick",
    entries={"job": ""},
)
SERVICES = (WEB, APP, POSTGRES, REDIS, NGINX, BOX)


def find(name: str) -> Service:
    """The service of that name.

    Raises:
        KeyError: there is none.
    """
    return {service.name: service for service in SERVICES}[name]


def import_images(docker: Docker, services: tuple[Service, ...]) -> None:
    """Make the images of some services, and of the client where one of them needs it."""
    if BOX in services:
        _import_box(docker)
    if all(service is BOX for service in services):
        return
    base = images.import_root(docker, ROOT)
    images.commit(docker, base, CLIENT)
    for service in services:
        if service is not BOX:
            images.commit(docker, base, service.recipe, _files(service))


def _import_box(docker: Docker) -> None:
    root = root_archive(
        (
            "dev", "etc", "etc/cron.d", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin",
            "var", "var/spool", "var/log",
        ),
        {
            "etc/passwd": (0o644, "root:x:0:0:root:/root:/bin/sh\n"),
            "etc/group": (0o644, "root:x:0:\n"),
            "var/log/messages": (0o644, "started\n"),
            "worker.sh": (0o755, _WORKER),
        },
    )  # fmt: skip
    if docker.has_image(BOX.recipe.reference):
        docker("rmi", "--force", BOX.recipe.reference)
    changes = [word for change in BOX.recipe.changes for word in ("--change", change)]
    docker("import", *changes, "-", BOX.recipe.reference, stdin=root)


def _files(service: Service) -> bytes:
    """What lies over the common root, as a tar archive owned by root."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(_FILES / service.name, arcname=".", filter=owned)
        # What such images have besides: places for jobs, keys and accounts.
        for folder in ("root/.ssh", "etc/cron.d", "var/spool/cron/crontabs", "etc/sudoers.d"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry)
        if service is NGINX:
            for source, path in _COMPILED.items():
                entry = tarfile.TarInfo(path)
                data = compiled(source, "-static")
                entry.size, entry.mode = len(data), 0o755
                archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@functools.cache
def compiled(source: str, *flags: str) -> bytes:
    """A program or library out of a C file of this folder.

    Raises:
        EngineError: there is no compiler.
    """
    with tempfile.TemporaryDirectory(prefix="rote-attacks-") as scratch:
        out = Path(scratch, "out")
        subprocess.run(
            [
                *(program("cc"), "-O1", "-Wall", "-Wextra", "-Werror", *flags),
                *("-o", str(out), str(_HERE / source)),
            ],
            check=True,
            timeout=120,
        )
        return out.read_bytes()


def payload() -> bytes:
    """A library that says "PWNED" and makes /tmp/pwned when it is loaded."""
    return compiled("payload.c", "-shared", "-fPIC")
