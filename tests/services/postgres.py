"""PostgreSQL with autovacuum and log files that are rotated."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

# Like the official image's: initdb, a server on a socket only for the set-up, then the real one.
_ENTRYPOINT = r"""#!/bin/bash
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

_READY = r"""
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH" PGHOST=127.0.0.1 PGUSER=postgres \
	PGPASSWORD=rote PGDATABASE=bench
until psql -qc 'SELECT 1'; do sleep 0.2; done
"""

# Besides transactions: temporary files (a sort beyond work_mem), WAL switches, vacuum, a new log.
_LEARN = f"""{_READY}
pgbench -q -i -s 2
pgbench -n -c 4 -T 4
psql -v ON_ERROR_STOP=1 \\
	-c "SET work_mem='64kB'" \\
	-c 'SELECT max(n) FROM (SELECT row_number() OVER (ORDER BY filler) n FROM pgbench_accounts)s' \\
	-c 'CREATE TABLE copies AS SELECT * FROM pgbench_accounts' -c 'CREATE INDEX ON copies (bid)' \\
	-c 'VACUUM FULL copies' -c 'DROP TABLE copies' -c 'SELECT pg_switch_wal()' -c CHECKPOINT \\
	-c 'CREATE UNLOGGED TABLE quick (n int)' -c 'DROP TABLE quick' \\
	-c 'CREATE TEMP TABLE mine (n int)' -c 'INSERT INTO mine SELECT generate_series(1, 9)' \\
	-c 'SELECT pg_rotate_logfile()'
createdb other
dropdb other
"""

# Other statements, sizes and orders; unlogged and temporary tables throughout.
_JUDGE = f"""{_READY}
pgbench -q -i -s 3 --unlogged-tables
pgbench -n -c 8 -j 2 -T 3 -S
pgbench -n -c 2 -T 4 -N
psql -v ON_ERROR_STOP=1 \\
	-c "SET work_mem='64kB'" \\
	-c 'CREATE TEMP TABLE t AS SELECT * FROM pgbench_accounts ORDER BY abalance, filler' \\
	-c 'CREATE INDEX ON t (abalance)' -c 'ANALYZE t' \\
	-c 'SELECT count(*) FROM t a JOIN t b USING (aid)' \\
	-c 'UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 3 = 0' -c 'VACUUM pgbench_accounts' \\
	-c 'REINDEX TABLE pgbench_accounts' -c 'SELECT pg_rotate_logfile()'
createdb extra
psql -d extra -qc 'CREATE TABLE x AS SELECT generate_series(1, 50000) n' -c CHECKPOINT
dropdb extra
"""

_COMMAND = (
    'CMD ["postgres", "-c", "listen_addresses=*", "-c", "logging_collector=on", '
    '"-c", "log_rotation_age=1min", "-c", "log_connections=on", "-c", "autovacuum_naptime=5s"]'
)

POSTGRES = Service(
    Recipe(
        "postgres",
        (
            'ENTRYPOINT ["/usr/local/bin/postgres-entrypoint.sh"]',
            _COMMAND,
            "ENV PGDATA=/var/lib/postgresql/data",
            "ENV POSTGRES_PASSWORD=rote",
            "EXPOSE 5432",
        ),
        options=("--stop-signal", "SIGINT"),
        files={"usr/local/bin/postgres-entrypoint.sh": _ENTRYPOINT},
    ),
    packages=("postgresql",),
    # Initialised by the entrypoint, as the official image does, and not by the package.
    early={"etc/postgresql-common/createcluster.conf": "create_main_cluster = false\n"},
    learn=_LEARN,
    judge=_JUDGE,
)
