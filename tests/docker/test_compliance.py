"""Compliance of ten real containers, against a reading by hand of how each was started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.client import Docker

SLEEP = ("sleep", "1000")
# What a person who knows the benchmark writes down for `docker run IMAGE` with no option at all:
# root, default capabilities (NET_RAW is one), no limit of anything, Docker's own bridge.
PLAIN = {"4.1", "4.6", "5.11", "5.12", "5.13", "5.19", "5.26", "5.27", "5.29", "5.30", "596", "599"}
# How each is started, whether it runs, and how it differs from the plain one: (more, fewer).
READING: dict[str, tuple[list[str], bool, set[str], set[str]]] = {
    "plain": ([], True, set(), set()),
    "hardened": (
        ["--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only",
         "--memory=64m", "--cpus=0.5", "--pids-limit=50", "--ulimit=nofile=1024", "--network=none",
         "--health-cmd=true", "--restart=on-failure:3"],
        True, set(),
        {"5.11", "5.12", "5.13", "5.19", "5.26", "5.27", "5.29", "5.30", "596", "599"},
    ),
    "privileged": (["--privileged"], False, {"5.4", "5.5", "5.18", "5.22", "X1"}, set()),
    "host": (
        ["--pid=host", "--ipc=host", "--uts=host", "--network=host", "--userns=host"],
        True, {"5.10", "5.16", "5.17", "5.21", "5.31"}, {"5.30"},
    ),
    "mounts": (
        ["--volume=/etc:/host/etc:ro", "--volume=/usr/:/host/usr",
         "--volume={tmp}/docker.sock:/docker.sock"],
        True, {"5.6", "5.6w", "5.32"}, set(),
    ),
    "spread": (
        ["--volume={tmp}:/x:rshared", "--volume=/boot:/b:ro"], False, {"5.20", "5.6"}, set(),
    ),
    "ports": (
        ["--publish=80:80", "--publish=127.0.0.1:8080:81", "--publish-all",
         "--oom-score-adj=-950"],
        False, {"5.8", "5.9", "5.14", "X3"}, set(),
    ),
    "unconfined": (
        ["--cap-add=SYS_PTRACE", "--cap-drop=NET_RAW", "--security-opt=seccomp=unconfined",
         "--security-opt=systempaths=unconfined"],
        True, {"5.4", "5.22", "X1"}, {"596"},
    ),
    "secrets": (
        ["--env=DB_PASSWORD=hunter2", "--env=KEY_FILE=/run/secrets/key", "--restart=always"],
        True, {"597", "5.15"}, set(),
    ),
    "joined": (["--network=container:{plain}", "--pid=container:{plain}"], True, {"X5"}, {"5.30"}),
}  # fmt: skip
# What depends on the host that the test runs on, and not on how a container was started.
OF_THE_HOST = {"5.2", "5.3", "449", "X2"}
# The engine of these tests has a parent cgroup of its own, which a config.json cannot tell from one
# that was chosen by hand.
OF_THE_ENGINE = {"5.25", "5.28"}  # and no runtime but Kubernetes' is told an image's name
# Of these a config.json says nothing, or Docker sets them in it by itself.
NOT_IN_CONFIG = {"4.1", "4.6", "5.8", "5.9", "5.14", "5.15", "5.27", "5.30", "5.31"}


@pytest.fixture
def containers(docker: Docker, busybox_image: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The ten, by what they are called here."""
    (tmp_path / "docker.sock").touch()
    made: dict[str, str] = {}
    try:
        for name, (options, runs, _, _) in READING.items():
            filled = [o.format(tmp=tmp_path, plain=made.get("plain", "")) for o in options]
            made[name] = docker("create", *filled, busybox_image, *SLEEP)
            if runs:
                docker("start", made[name])
        yield made
    finally:
        for container in made.values():
            docker("rm", "--force", container, check=False)


def check(state: Path, host: str, *arguments: str, code: int = 0) -> Any:
    """`rote compliance check`, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "sensor", "--state-dir", str(state), "compliance", "check",
         *arguments, "--engine", host, "-o", "json"],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout)


def failed(document: dict[str, Any]) -> set[str]:
    """The ids of what failed, but what is the host's."""
    found = {r["id"] for r in document["results"] if r["status"] == "fail"}
    return found - OF_THE_HOST


def test_ten_containers_against_a_reading_by_hand(
    docker_host: str, containers: dict[str, str], tmp_path: Path
) -> None:
    """By the engine's inspection, and those that run by their config.json as well."""
    found = check(tmp_path / "state", docker_host, *containers.values())
    by_id = {document["container"]: document for document in found}
    compared = 0
    for name, container in containers.items():
        _, runs, more, fewer = READING[name]
        expected = (PLAIN | more) - fewer
        document = by_id[container]
        assert failed(document) == expected, name
        unknown = {r["id"] for r in document["results"] if r["status"] == "unknown"}
        assert unknown - OF_THE_HOST == set(), name
        spec = _config(docker_host, container)
        if not runs or spec is None:
            continue
        compared += 1
        (told,) = check(tmp_path / "state", docker_host, "--spec", str(spec))
        assert failed(told) - OF_THE_ENGINE == expected - NOT_IN_CONFIG, name
    assert compared == sum(runs for _, runs, _, _ in READING.values())
    shown = json.dumps(by_id[containers["secrets"]])
    assert "DB_PASSWORD (by its name)" in shown
    assert "hunter2" not in shown
    everything = check(tmp_path / "state", docker_host, "--all")
    assert {d["container"] for d in everything} >= set(containers.values())


def _config(host: str, container: str) -> Path | None:
    """What the runtime was told, where the engine's containerd keeps it."""
    own = Path(host.removeprefix("unix://")).parent / "containerd-state"
    for state in (own, Path("/run/containerd"), Path("/run/docker/containerd/daemon")):
        found = state / "io.containerd.runtime.v2.task/moby" / container / "config.json"
        if found.exists():
            return found
    return None


KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ" + "AAAAAA\n"
    "-----END OPENSSH PRIVATE KEY-----\n"
)  # fmt: skip


def test_an_image_and_a_rule(
    docker_host: str, docker: Docker, busybox_image: str, tmp_path: Path
) -> None:
    """What lies in an image's layers and in its history is found; a rule blocks its containers."""
    script = (
        f"mkdir -p /root/.ssh; printf '%s' '{KEY}' >/root/.ssh/id_rsa;"
        "cp /bin/busybox /bin/su2; chmod 4755 /bin/su2"
    )
    scratch = docker("create", busybox_image, "sh", "-c", script)
    docker("start", "--attach", scratch)
    image = "rote-test/compliance:latest"
    changes = ["USER 1000", "ENV API_TOKEN=abcdefgh12345", "HEALTHCHECK CMD true"]
    words = [word for change in changes for word in ("--change", change)]
    docker("commit", *words, scratch, image)
    docker("rm", scratch)
    try:
        # The key is in the command that put it there as well, and that is in the history.
        expected = {"4.8", "4.10", "424", "425"}
        (found,) = check(tmp_path / "state", docker_host, image)
        assert failed(found) == expected
        evidence = {r["id"]: r["evidence"] for r in found["results"]}
        assert evidence["425"] == "/root/.ssh/id_rsa"
        assert evidence["4.8"] == "/bin/su2 (setuid)"
        assert "abcdefgh12345" not in json.dumps(found)
        container = docker("create", image, *SLEEP)
        rules = tmp_path / "rules.yaml"
        rules.write_text(
            "version: 1\nrules:\n- {kind: compliance, name: no keys, message: ask ops,\n"
            "   default: ignore, checks: {'425': block, '5.28': alert}}\n"
        )
        (judged,) = check(tmp_path / "state", docker_host, container, "--rules", str(rules), code=1)
        plain = PLAIN - {"4.1", "4.6", "5.27", "599"}
        assert failed(judged) == plain | expected | {"5.28", "597"}
        assert judged["message"] == (
            "blocked by rule 'no keys': 1 failed check [high: 1]: 425 private key in the image - "
            "ask ops"
        )
        docker("rm", container)
    finally:
        docker("rmi", "--force", image)
