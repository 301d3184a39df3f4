"""cron, rsyslog and logrotate in one container, with a job of its own each minute."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

_ENTRYPOINT = r"""#!/bin/bash
set -e
rsyslogd -f /etc/soak/rsyslog.conf -i /run/rsyslogd.pid
exec cron -f
"""

_SYSLOG = """\
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="514")
global(workDirectory="/var/spool/rsyslog")
template(name="Program" type="string" string="/var/log/soak/%programname%.log")
auth.*   /var/log/soak/auth.log
daemon.* /var/log/soak/daemon.log
user.*   /var/log/soak/user.log
local0.* ?Program
"""

_CRONTAB = """\
PATH=/usr/sbin:/usr/bin:/sbin:/bin
* * * * * root /usr/local/bin/soak-job.sh >/dev/null 2>&1
* * * * * root sleep 20; logrotate /etc/soak/logrotate.conf
"""

_ROTATION = """\
compress
delaycompress
dateext
dateformat -%Y%m%d-%s
/var/log/soak/*.log {
	size 1k
	rotate 3
	missingok
	sharedscripts
	postrotate
		kill -HUP $(cat /run/rsyslogd.pid)
	endscript
}
"""

_JOB = r"""#!/bin/sh
set -e
list=$(mktemp)
report=$(mktemp /var/lib/soak/report.XXXXXX)
trap 'rm -f "$list"' EXIT
find /var/log/soak -type f >"$list"
sort "$list" | tar --create --gzip --files-from=- --file="/var/backups/logs-$(date +%s).tar.gz"
wc -l "$list" >"$report"
mv "$report" /var/lib/soak/report
date >"/tmp/stamp-$$"
find /var/backups /tmp -name '*[0-9]*' -mmin +2 -delete
"""

# Each program that logs has a file of its own; the other mix has programs of other names.
_LEARN = """
for n in $(seq 1 100); do
	logger -n 127.0.0.1 -P 514 -d -p user.info -t shop "order $n"
	logger -n 127.0.0.1 -P 514 -d -p daemon.info -t timer "tick $n"
	logger -n 127.0.0.1 -P 514 -d -p auth.info -t login "user $n"
	for program in billing cart mail search stock; do
		logger -n 127.0.0.1 -P 514 -d -p local0.info -t $program "$program $n"
	done
	sleep 0.1
done
"""

_JUDGE = """
for n in $(seq 1 300); do
	logger -n 127.0.0.1 -P 514 -d -p daemon.warning -t web "slow request $n $RANDOM"
	logger -n 127.0.0.1 -P 514 -d -p auth.info -t login "user $n"
	logger -n 127.0.0.1 -P 514 -d -p local0.info -t billing "storno $n"
	[ $((n % 3)) != 0 ] || logger -n 127.0.0.1 -P 514 -d -p local0.info -t returns "parcel $n"
	sleep 0.03
done
"""

CRON = Service(
    Recipe(
        "cron",
        ('CMD ["/usr/local/bin/cron-entrypoint.sh"]',),
        files={
            "usr/local/bin/cron-entrypoint.sh": _ENTRYPOINT,
            "usr/local/bin/soak-job.sh": _JOB,
            "etc/soak/rsyslog.conf": _SYSLOG,
            "etc/soak/logrotate.conf": _ROTATION,
            "etc/cron.d/soak": _CRONTAB,
        },
    ),
    packages=("cron", "logrotate", "rsyslog"),
    commands=('mkdir -p "$1"/var/log/soak "$1"/var/lib/soak "$1"/var/spool/rsyslog',),
    learn=_LEARN,
    judge=_JUDGE,
)
