"""Real services under load: what one container taught, a fresh one does without an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.docker import images
from tests.docker.client import Docker, Running
from tests.docker.sensor import Rote

LOAD_SECONDS = 120

WEB = """
until (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.1; done
wrk -t 1 -c 8 -d 3s http://127.0.0.1/
wrk -t 1 -c 2 -d 1s http://127.0.0.1/not-there
"""

# Snapshots (--save 5 1 and BGSAVE) and a rewrite of the append-only file while it is written.
CACHE = """
until redis-cli ping; do sleep 0.1; done
redis-benchmark -q -n 20000 -t set,get,lpush,zadd
redis-cli bgrewriteaof; sleep 1
redis-benchmark -q -n 5000 -t set
redis-cli bgsave; sleep 6
redis-cli info persistence | grep -q rdb_last_bgsave_status:ok
redis-cli info persistence | grep -q aof_last_bgrewrite_status:ok
"""

# Besides transactions: temporary files (a sort beyond work_mem), WAL switches, vacuum.
DATABASE = """
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH" PGHOST=127.0.0.1 PGUSER=postgres \
	PGPASSWORD=rote PGDATABASE=bench
until psql -qc 'SELECT 1'; do sleep 0.2; done
pgbench -q -i -s 2
pgbench -n -c 4 -T 4
psql -v ON_ERROR_STOP=1 \
	-c "SET work_mem='64kB'" \
	-c 'SELECT max(n) FROM (SELECT row_number() OVER (ORDER BY filler) n FROM pgbench_accounts) s' \
	-c 'CREATE TABLE copies AS SELECT * FROM pgbench_accounts' -c 'CREATE INDEX ON copies (bid)' \
	-c 'VACUUM FULL copies' -c 'DROP TABLE copies' -c 'SELECT pg_switch_wal()' -c CHECKPOINT
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A service and what it is put through."""

    recipe: images.Recipe
    load: str
    goes_on: bool = True  # under load it does things that its model knows


SERVICES = (
    Service(images.NGINX, WEB, goes_on=False),  # its logs are pipes
    Service(images.REDIS, CACHE),
    Service(images.POSTGRES, DATABASE),
)


def put_under_load(docker: Docker, server: Running, script: str) -> None:
    """Run a load in the server's network; it waits for the server itself, and fails loudly."""
    result = docker.complete(
        *("run", "--rm", "--network", f"container:{server.id}", images.LOAD.reference),
        *("timeout", str(LOAD_SECONDS), "bash", "-ec", script),
        timeout=LOAD_SECONDS + 30,
    )
    assert result.returncode == 0, (
        f"load: exit {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}\n"
        f"log of the server:\n{server.logs()[-2000:]}"
    )


def in_short(audits: list[dict[str, Any]]) -> list[str]:
    """Audits as a failing test should show them."""
    return [
        f"{a['type']}: {a['parents'][:1]} {a['program']} {a['operation']} {a['path']} {a['path2']}"
        for a in audits
    ]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("service_images")
@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.recipe.name)
def test_a_second_container_of_a_learned_service_causes_no_audit(
    docker: Docker, rote: Rote, service: Service
) -> None:
    """Start, load and stop of a fresh container are all known; somebody who enters is not."""
    image = service.recipe.reference
    rote.start()

    first = docker.run(image, options=service.recipe.options)
    rote.wait_for(lambda: rote.watches(first.id), seconds=10, what="the first container")
    put_under_load(docker, first, service.load)
    first.stop()
    rote.wait_for(lambda: not rote.watches(first.id), seconds=20, what="its end")
    rote("models", "activate", image)

    second = docker.run(image, options=service.recipe.options)
    rote.wait_for(lambda: rote.watches(second.id), seconds=10, what="the second container")
    put_under_load(docker, second, service.load)
    watched = rote.wait_for(
        lambda: [
            r for r in rote.containers() if r["id"] == second.id and r["known"] >= service.goes_on
        ],
        seconds=5,
        what="the kernel to have answered something by itself",
    )
    assert [(r["model_state"], r["complete"], r["lost"]) for r in watched] == [("active", True, 0)]
    assert in_short(rote.audits("--container", second.id)) == []

    second.exec("ls", "/")
    rote.wait_for(
        lambda: rote.audits("--container", second.id, "--type", "exec_session"),
        seconds=5,
        what="an audit of the session, which shows that the silence before meant something",
    )
    session = {audit["id"] for audit in rote.audits("--container", second.id)}
    second.stop()
    rote.wait_for(lambda: not rote.watches(second.id), seconds=20, what="its end")
    after = [a for a in rote.audits("--container", second.id) if a["id"] not in session]
    assert in_short(after) == []
