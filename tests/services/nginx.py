"""nginx, as the official image starts it."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

# Like docker-entrypoint.sh and docker-entrypoint.d/10-listen-on-ipv6-by-default.sh of the official
# image: the configuration is changed in place at every first start.
_ENTRYPOINT = r"""#!/bin/sh
set -e
if [ "$1" = nginx ]; then
	sed -i -E 's,^(\s*worker_processes\s+).*;,\12;,' /etc/nginx/nginx.conf
	find /etc/nginx/conf.d -type f -name '*.conf' | sort
	ln -sf /dev/stdout /var/log/nginx/access.log
	ln -sf /dev/stderr /var/log/nginx/error.log
fi
exec "$@"
"""

# Bodies beyond 8 KiB go to numbered temporary files, and so do answers that a slow client leaves.
_PROXY = """\
server {
	listen 8080;
	location / {
		proxy_pass http://127.0.0.1:80;
		client_max_body_size 8m;
	}
}
"""

_READY = """
until (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.1; done
"""

_LEARN = f"""{_READY}
wrk -t 1 -c 8 -d 3s http://127.0.0.1/
wrk -t 1 -c 2 -d 1s http://127.0.0.1/not-there
for size in 40000 300000; do
	head -c $size /dev/urandom | curl -sS --data-binary @- -o /dev/null http://127.0.0.1:8080/
done
"""

_JUDGE = f"""{_READY}
for n in 1 2 3 4 5 6; do
	head -c $((n * 70000)) /dev/zero | curl -sS -T - -o /dev/null http://127.0.0.1:8080/up/$n
	curl -sS -I -o /dev/null http://127.0.0.1/?n=$n
done
wrk -t 2 -c 40 -d 4s -H 'Connection: close' http://127.0.0.1:8080/
"""

NGINX = Service(
    Recipe(
        "nginx",
        (
            'ENTRYPOINT ["/usr/local/bin/nginx-entrypoint.sh"]',
            'CMD ["nginx", "-g", "daemon off;"]',
            "EXPOSE 80",
        ),
        options=("--stop-signal", "SIGQUIT"),
        files={
            "usr/local/bin/nginx-entrypoint.sh": _ENTRYPOINT,
            "etc/nginx/conf.d/proxy.conf": _PROXY,
        },
    ),
    packages=("nginx-light",),
    learn=_LEARN,
    judge=_JUDGE,
)
