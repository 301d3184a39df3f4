"""Whose task is it: cgroups by name, aliases, stamps, sessions and probes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sensor.events import Actor, Event, EventFlag, EventKind
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import ContainerFlag
from tests.kernel.conftest import Cgroup
from tests.live import cgroup_root

Read = Callable[[], list[Event]]
Make = Callable[[str], Cgroup]

_ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "name", [_ID, f"docker-{_ID}.scope", f"cri-containerd-{_ID}.scope", f"libpod-{_ID}.scope"]
)
def test_container_cgroups_are_found_at_their_creation(
    make_cgroup: Make, events: Read, name: str
) -> None:
    """A cgroup with a container's name is reported with id and path before anybody is in it."""
    cgroup = make_cgroup(name)
    found = [e for e in events() if e.kind is EventKind.CGROUP_CREATED]
    assert [(e.cgroup_id, e.path) for e in found] == [(cgroup.id, f"/{name}")]
    cgroup.remove()
    found = [e for e in events() if e.kind is EventKind.CGROUP_REMOVED]
    assert [e.cgroup_id for e in found] == [cgroup.id]


@pytest.mark.parametrize(
    "name", ["plain", f"libpod-conmon-{_ID}.scope", _ID[:-1], _ID[:-1] + "x", f"x{_ID}"]
)
def test_other_cgroups_are_left_alone(make_cgroup: Make, events: Read, name: str) -> None:
    """Podman's monitor, short ids and ordinary names are no containers."""
    make_cgroup(f"rote-test-{os.getpid()}-x" if name == "plain" else name)
    assert events() == []


# Runs a program in a mount namespace of its own, as runtimes do.
_CONTAINER = ("/usr/bin/unshare", "-m", "--propagation", "private")


def test_first_instruction_and_sessions(make_cgroup: Make, events: Read) -> None:
    """The first program is the service, whoever comes in later a session, and both are seen."""
    cgroup = make_cgroup(_ID)
    kernel = cgroup.kernel
    # unshare runs outside: it is stamped neither in the host's mount namespace nor later
    script = f"echo $$ > {cgroup.path}/cgroup.procs; exec /bin/sh -c '/bin/true; true'"
    for _ in range(2):
        subprocess.run([*_CONTAINER, "/bin/sh", "-c", script], check=True, timeout=60)
    found = [e for e in events() if e.kind is EventKind.EXEC]
    assert [(e.program, Path(e.path).name, e.actor) for e in found if not e.program] == [
        ("", Path(os.path.realpath("/bin/sh")).name, Actor.SERVICE),
        ("", Path(os.path.realpath("/bin/sh")).name, Actor.SESSION),
    ]
    assert {e.actor for e in found if e.path.endswith("true")} == {Actor.SERVICE, Actor.SESSION}
    assert all(e.flags & EventFlag.PENDING for e in found)
    assert kernel.counters()[cgroup.id].lost == 0


def test_probe_is_told_from_a_session(make_cgroup: Make, events: Read) -> None:
    """A newcomer whose arguments are the health check's is a probe, with its children."""
    cgroup = make_cgroup(_ID)
    cgroup.kernel.watch(cgroup.id, model=0, flags=ContainerFlag.WATCHED, init_pid=1)
    cgroup.kernel.allow_probe(cgroup.id, ("/bin/sh", "-c", "/bin/true; true"))
    for command in ("/bin/true; true", "/bin/true; false || true"):
        script = f'echo $$ > {cgroup.path}/cgroup.procs; exec /bin/sh -c "{command}"'
        subprocess.run([*_CONTAINER, "/bin/sh", "-c", script], check=True, timeout=60)
    actors = [e.actor for e in events() if e.kind is EventKind.EXEC]
    assert actors == [Actor.PROBE, Actor.PROBE, Actor.SESSION, Actor.SESSION]


def test_runtime_in_the_hosts_mounts_is_not_the_container(make_cgroup: Make, events: Read) -> None:
    """Before the container has mounts of its own, what runs in its cgroup is the runtime."""
    cgroup = make_cgroup(_ID)
    cgroup.run("/bin/true")
    assert [e for e in events() if e.kind is EventKind.EXEC] == []


def test_cgroups_below_count_as_the_container(make_cgroup: Make, events: Read) -> None:
    """A container that makes cgroups of its own stays one container."""
    cgroup = make_cgroup("")
    cgroup.kernel.watch(
        cgroup.id,
        model=0,
        flags=ContainerFlag.HOST_MOUNTS | ContainerFlag.NO_SESSIONS | ContainerFlag.WATCHED,
    )
    below = cgroup.path / "inner"
    below.mkdir()
    try:

        def enter() -> None:
            (below / "cgroup.procs").write_text(str(os.getpid()))

        subprocess.run(["/bin/true"], preexec_fn=enter, check=True, timeout=60)
        found = [e for e in events() if e.kind is EventKind.EXEC]
        assert [e.cgroup_id for e in found] == [cgroup.id]
    finally:
        below.rmdir()


def test_leaving_the_cgroup_does_not_help(cgroup: Cgroup, events: Read) -> None:
    """A stamped process that moves to another cgroup is still watched, and so are its children."""
    root = cgroup_root()
    cgroup.run("/bin/sh", "-c", f"echo $$ > {root}/cgroup.procs; /bin/true; true")
    assert any(e.path.endswith("true") and e.kind is EventKind.EXEC for e in events())


def test_processes_that_ran_before_are_adopted(make_cgroup: Make, events: Read) -> None:
    """A process older than the sensor is watched from its next act on."""
    cgroup = make_cgroup("")
    kernel: LiveKernel = cgroup.kernel
    with subprocess.Popen(
        ["/bin/sh", "-c", "echo ready; read x; /bin/true; true"],
        preexec_fn=cgroup.enter,  # noqa: PLW1509 - no threads here
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"  # its libraries are mapped by now
        flags = ContainerFlag.WATCHED | ContainerFlag.HOST_MOUNTS
        kernel.watch(cgroup.id, model=0, flags=flags)
        kernel.adopt(process.pid, cgroup.id, session=False)
        process.communicate(b"\n", timeout=60)
    found = [e for e in events() if e.kind is EventKind.EXEC]
    assert [(Path(e.path).name, e.actor) for e in found] == [("true", Actor.SERVICE)]


def test_a_full_ring_is_counted(cgroup: Cgroup, tmp_path: Path) -> None:
    """What the ring cannot take is counted for the container it belongs to, and comes again."""
    cgroup.python(
        "import sys\nfor i in range(12000): open(f'{sys.argv[1]}/{i:x}z', 'w').close()", tmp_path
    )
    counters = cgroup.kernel.counters()[cgroup.id]
    assert counters.lost > 0
    seen = 0
    while batch := cgroup.kernel.read_events(100000):
        seen += len(batch)
    assert seen == counters.events
    cgroup.run("/bin/true")
    assert cgroup.kernel.read_events()
