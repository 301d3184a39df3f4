#!/bin/sh
set -e
mkdir -p /srv/data/uploads /srv/data/cache /srv/data/reports /srv/data/backup /var/log/app
find /srv/data -type d -exec chmod 750 '{}' +
sed -i 's/^level=.*/level=info/' /srv/app/app.conf
exec python3 /srv/app/server.py
