#!/bin/sh
# PID 1 of the guest, second part: it comes with the job. Mounts what a booted system has, runs the
# command, hands back its output (second serial line) and its results (namespace 3 of the disk).
export PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 LC_ALL=C.UTF-8 TERM=dumb
export COLUMNS=250 # or pytest cuts the reasons off its summary

mkdir -p /dev/pts /dev/shm /job/results
ln -sf /proc/self/fd /dev/fd
mount -t devpts -o ptmxmode=666 pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t securityfs sec /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t ext4 -o ro /run/disk4 /usr/lib/modules
chmod 1777 /tmp /dev/shm
mkdir -p /run/lock
hostname vm
ip link set lo up
modprobe -a overlay loop

# Raw: what the command writes arrives byte for byte.
stty -F /dev/ttyS1 raw -echo
mkfifo /run/output
cat /run/output >/dev/ttyS1 &
copier=$!

read -r up _ </proc/uptime
echo "$up" >/job/booted
cd /rote || exit 1
# A session of its own, as a command of a person has; stdin is not a terminal.
setsid --wait sh /job/command </dev/null >/run/output 2>&1
code=$?

# A daemon that the command left behind may hold the pipe open: the copier gets a limit. What is
# in the pipe and in the line (64 KiB and less) is through by then.
tries=0
while kill -0 $copier 2>/dev/null && [ $tries -lt 50 ]; do
	sleep 0.1
	tries=$((tries + 1))
done
kill $copier 2>/dev/null
stty -F /dev/ttyS1 raw # waits until the line has sent everything

dmesg >/job/dmesg
echo $code >/job/code
tar -cf /run/disk3 -C /job booted code dmesg results
sync /run/disk3
busybox poweroff -n -f
