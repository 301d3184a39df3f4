"""Runs one program without privileges. Started by path with ``python -I -S``; imports no Rote.

    jail.py SECONDS MEMORY PROGRAM

As root the program becomes a user that nobody else is, in process, network and IPC namespaces of
its own: what it starts ends with it, and it reaches no network. Without capabilities and without
ways to get new ones; with limits on time, memory, processes and what it writes to files. Exit
statuses of its own: 124 for time that ran out, 125 where the program could not be started.
"""

import ctypes
import os
import resource
import signal
import sys
import time

USER = 61183  # by systemd's table of users, one that nobody gets: limits of it are ours alone
_PROCESSES = 64
_FILES = 64
_FILE_SIZE = 1 << 20
_NEW_IPC, _NEW_PID, _NEW_NET = 0x08000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_CAPABILITIES = 64
_TIMED_OUT, _NOT_STARTED = 124, 125
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, first: int, second: int = 0) -> None:
    if _libc.prctl(option, first, second, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def _drop(seconds: float, memory: int, *, root: bool) -> None:
    if root:
        for capability in range(_CAPABILITIES):
            try:
                _prctl(_PR_CAPBSET_DROP, capability)
            except OSError:
                break  # the kernel has no more
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _limit(resource.RLIMIT_CPU, int(seconds) + 1)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, _FILE_SIZE)
    _limit(resource.RLIMIT_NOFILE, _FILES)
    _limit(resource.RLIMIT_CORE, 0)
    if root:  # else the user's other processes would count
        _limit(resource.RLIMIT_NPROC, _PROCESSES)
    os.umask(0o077)
    os.chdir("/")


def _execute(program: str, seconds: float, memory: int, *, root: bool) -> None:
    try:
        _drop(seconds, memory, root=root)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        os.execve(program, [program], environment)  # noqa: S606 - the file itself, no shell
    except OSError as error:
        os.write(2, f"{program}: cannot be started: {error.strerror}\n".encode())
    os._exit(_NOT_STARTED)


def _init(program: str, seconds: float, memory: int, *, root: bool) -> None:
    """The first process of the new namespace: when it ends, all that was started there ends.

    The program is not that process itself: the first one of a namespace is spared the signals that
    it sends itself, so that a program that aborts would go on.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    child = os.fork()
    if child == 0:
        _execute(program, seconds, memory, root=root)
    while True:
        ended, status = os.wait()  # also for what others left behind
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def main() -> None:
    """Run it, and end as it ended."""
    seconds, memory, program = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    root = os.geteuid() == 0
    if root and _libc.unshare(_NEW_PID | _NEW_NET | _NEW_IPC) != 0:
        os.write(2, f"no namespaces: {os.strerror(ctypes.get_errno())}\n".encode())
        sys.exit(_NOT_STARTED)
    child = os.fork()
    if child == 0:
        _init(program, seconds, memory, root=root)
    end = time.monotonic() + seconds
    pause = 0.001
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.exit(_TIMED_OUT)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
