"""Apache with PHP: sessions, a cache of pages, uploads, piped logs."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

_ENTRYPOINT = r"""#!/bin/bash
set -e
(while sleep 15; do /usr/lib/php/sessionclean; done) &
exec apache2ctl -D FOREGROUND
"""

_CONFIGURATION = """\
ServerName localhost
CustomLog "|/usr/bin/rotatelogs /var/log/apache2/requests.%s.log 20" combined
"""

_PAGE = """\
<?php
session_start();
$_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
$page = '/var/www/data/cache/' . md5('page' . rand(0, 500)) . '.html';
if (!file_exists($page)) {
	$new = tempnam('/var/www/data/cache', 'new');
	file_put_contents($new, str_repeat('page ', 500));
	rename($new, $page);
}
if (!empty($_FILES['file'])) {
	move_uploaded_file($_FILES['file']['tmp_name'], '/var/www/data/uploads/' . uniqid() . '.bin');
}
if (isset($_GET['end'])) {
	session_destroy();
}
echo $_SESSION['n'], file_get_contents($page);
"""

_READY = """
until curl -sf -o /dev/null http://127.0.0.1/index.php; do sleep 0.2; done
"""

_LEARN = f"""{_READY}
ab -q -n 400 -c 4 http://127.0.0.1/index.php
head -c 30000 /dev/urandom >/tmp/upload
for n in 1 2 3; do curl -sf -o /dev/null -F file=@/tmp/upload http://127.0.0.1/index.php; done
curl -sf -o /dev/null 'http://127.0.0.1/index.php?end=1'
sleep 4
"""

_JUDGE = f"""{_READY}
for n in 1 2 3 4 5 6; do
	curl -sf -o /dev/null -b /tmp/jar$n -c /tmp/jar$n http://127.0.0.1/index.php
	head -c $((n * 9000)) /dev/zero >/tmp/other$n
	curl -sf -o /dev/null -b /tmp/jar$n -F file=@/tmp/other$n "http://127.0.0.1/index.php?n=$n"
done
wrk -t 1 -c 12 -d 3s http://127.0.0.1/index.php
ab -q -k -n 200 -c 2 'http://127.0.0.1/index.php?end=1'
sleep 2
"""

APACHE = Service(
    Recipe(
        "apache",
        ('CMD ["/usr/local/bin/apache-entrypoint.sh"]', "EXPOSE 80"),
        options=("--stop-signal", "SIGWINCH"),
        files={
            "usr/local/bin/apache-entrypoint.sh": _ENTRYPOINT,
            "etc/apache2/conf-enabled/soak.conf": _CONFIGURATION,
            "var/www/html/index.php": _PAGE,
        },
    ),
    packages=("apache2", "libapache2-mod-php"),
    commands=(
        'mkdir -p "$1"/var/www/data/cache "$1"/var/www/data/uploads',
        'chroot "$1" chown -R www-data /var/www/data',
    ),
    learn=_LEARN,
    judge=_JUDGE,
)
