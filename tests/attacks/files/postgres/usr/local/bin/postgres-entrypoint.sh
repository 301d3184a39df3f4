#!/bin/sh
# As the official image does it, for a database that trusts whoever connects.
set -e
PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"
export PATH
if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA" /var/lib/postgresql/archive /var/lib/postgresql/export /var/run/postgresql
	chown -R postgres /var/lib/postgresql /var/run/postgresql
	chmod 700 "$PGDATA"
	exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --username=postgres --auth=trust --no-sync
	echo 'host all all all trust' >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c 'listen_addresses=*' -c fsync=off -c archive_mode=on \
	-c 'archive_command=test ! -f /var/lib/postgresql/archive/%f && cp %p /var/lib/postgresql/archive/%f'
