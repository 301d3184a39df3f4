"""memcached, which writes nothing."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

_READY = """
until memcping --servers=127.0.0.1; do sleep 0.2; done
"""

MEMCACHED = Service(
    Recipe(
        "memcached",
        ('CMD ["memcached", "-u", "memcache", "-m", "64"]', "EXPOSE 11211"),
    ),
    packages=("memcached",),
    learn=f"{_READY}\nmemcslap --servers=127.0.0.1 --concurrency=4 --execute-number=5000"
    " --test=set\nsleep 5\n",
    judge=f"{_READY}\nmemcslap --servers=127.0.0.1 --concurrency=9 --execute-number=3000"
    " --test=get --binary\nmemcstat --servers=127.0.0.1 >/dev/null\nsleep 3\n",
)
