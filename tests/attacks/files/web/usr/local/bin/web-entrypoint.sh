#!/bin/sh
# What the entrypoints of such images do: directories, owners, a setting, logs to the container's own.
set -e
mkdir -p /var/www/html/uploads /var/run/apache2 /var/lock/apache2
rm -f /var/www/html/index.html
find /var/www/html \! -user www-data -exec chown www-data:www-data '{}' +
sed -i 's/^ServerTokens .*/ServerTokens Prod/' /etc/apache2/conf-available/security.conf
ln -sf /dev/stdout /var/log/apache2/access.log
ln -sf /dev/stderr /var/log/apache2/error.log
ln -sf /dev/stdout /var/log/apache2/other_vhosts_access.log
rm -f /var/run/apache2/apache2.pid
# shellcheck source=/dev/null
. /etc/apache2/envvars
exec apache2 -DFOREGROUND
