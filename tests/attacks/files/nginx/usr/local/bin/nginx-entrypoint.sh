#!/bin/sh
# As the official image does it; beside the server a worker that answers what lies below /api/.
set -e
mkdir -p /var/lib/worker /usr/share/nginx/html
find /var/lib/worker -type d -exec chmod 755 '{}' +
sed -i 's/worker_processes .*/worker_processes 2;/' /etc/nginx/nginx.conf
ln -sf /dev/stdout /var/log/nginx/access.log
ln -sf /dev/stderr /var/log/nginx/error.log
/usr/local/sbin/worker &
exec nginx -g 'daemon off;'
