#!/bin/sh
# Redis as many run it: as root, open to the network, and settable from there.
set -e
find /data \! -user root -exec chown root '{}' +
exec redis-server --protected-mode no --bind 0.0.0.0 --enable-protected-configs yes \
	--enable-module-command yes --dir /data --save '5 1' --appendonly yes
