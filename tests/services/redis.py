"""Redis with snapshots and an append-only file."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

# Like the official image's: hand the data over to the service's user, then become it.
_ENTRYPOINT = r"""#!/bin/sh
set -e
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
	find . \! -user redis -exec chown redis '{}' +
	exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
fi
umask 0077
exec "$@"
"""

# Snapshots (--save 5 1 and BGSAVE) and a rewrite of the append-only file while it is written.
_LEARN = """
until redis-cli ping; do sleep 0.1; done
redis-benchmark -q -n 20000 -t set,get,lpush,zadd
redis-cli bgrewriteaof; sleep 1
redis-benchmark -q -n 5000 -t set
redis-cli bgsave; sleep 6
redis-cli info persistence | grep -q rdb_last_bgsave_status:ok
redis-cli info persistence | grep -q aof_last_bgrewrite_status:ok
"""

# Pipelines and large values; several rewrites, a snapshot in the foreground, all keys dropped.
_JUDGE = """
until redis-cli ping; do sleep 0.1; done
redis-benchmark -q -n 60000 -P 16 -r 20000 -t sadd,hset,incr,mset
redis-benchmark -q -n 2000 -d 4000 -r 500 -t set
for n in 1 2 3; do
	redis-cli bgrewriteaof
	until redis-cli info persistence | grep -q aof_rewrite_in_progress:0; do sleep 0.2; done
done
redis-cli save
redis-cli flushall
redis-benchmark -q -n 3000 -t xadd,lpush
redis-cli bgsave; sleep 3
"""

REDIS = Service(
    Recipe(
        "redis",
        (
            'ENTRYPOINT ["/usr/local/bin/redis-entrypoint.sh"]',
            'CMD ["redis-server", "--save", "5 1", "--appendonly", "yes", "--dir", "/data"]',
            "WORKDIR /data",
            "EXPOSE 6379",
        ),
        files={"usr/local/bin/redis-entrypoint.sh": _ENTRYPOINT},
    ),
    packages=("redis-server",),
    commands=('mkdir -p "$1"/data && chroot "$1" chown redis /data',),
    learn=_LEARN,
    judge=_JUDGE,
)
