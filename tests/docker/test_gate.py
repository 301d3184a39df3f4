"""Starts held by the runtime wrapper and its hook, with a real Docker Engine."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.docker import images
from tests.docker.client import Docker
from tests.docker.engine import program
from tests.docker.gated import GatedEngine, Keeper
from tests.docker.gatekeeper import RULE
from tests.waiting import wait_for

MakeKeeper = Callable[..., Keeper]


@pytest.fixture(scope="module")
def engine() -> Generator[tuple[GatedEngine, Docker]]:
    """One engine with the gate in it, and busybox."""
    gated = GatedEngine()
    try:
        docker = gated.start()
        images.import_busybox(docker)
        gated.gate_done("install")
        yield gated, docker
    finally:
        gated.stop()


@pytest.fixture
def gated(engine: tuple[GatedEngine, Docker]) -> GatedEngine:
    """The engine."""
    return engine[0]


@pytest.fixture
def docker(engine: tuple[GatedEngine, Docker]) -> Iterator[Docker]:
    """Its client."""
    yield engine[1]
    engine[1].clean()


@pytest.fixture
def keeper(gated: GatedEngine) -> Iterator[MakeKeeper]:
    """Makes servers that end with the test."""
    made: list[Keeper] = []

    def make(word: str = "allow", seconds: float = 10.0) -> Keeper:
        made.append(Keeper(gated, word, seconds))
        return made[-1]

    yield make
    for one in made:
        one.end()


def _refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The line that the user of docker reads about it."""
    lines = [line for line in result.stderr.splitlines() if "rote: " in line]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("compiler", ["auto", "none"])
def test_what_is_refused_does_not_run_and_its_user_reads_why(
    gated: GatedEngine, docker: Docker, keeper: MakeKeeper, compiler: str
) -> None:
    """One clear line, and nothing else of the runtime's; others run. In C and in Python."""
    said = gated.gate_done("install", "--compiler", compiler)
    assert f"({'C' if compiler == 'auto' else 'Python'})" in said
    one = keeper()
    refused = docker.complete(
        "run", "--rm", "--label", "judge=deny", images.BUSYBOX, "echo", "it runs"
    )
    assert refused.returncode == 125
    assert "it runs" not in refused.stdout
    line = _refusal(refused)
    assert line.endswith(
        f"OCI runtime create failed: rote: {images.BUSYBOX} is refused by rule {RULE}: "
        "1 critical, 2 high vulnerabilities: unknown"
    )
    allowed = docker.complete("run", "--rm", "--name", "good", images.BUSYBOX, "echo", "it runs")
    assert allowed.stdout == "it runs\n"
    known = one.start_of("good")
    assert known["gate"] == "runtime"
    assert known["image"] == images.BUSYBOX
    assert known["image_id"] == json.loads(docker("image", "inspect", images.BUSYBOX))[0]["Id"]
    assert known["pid"] > 0
    assert known["cgroup"].endswith(known["id"])
    assert "bin" in known["root"]
    assert {"Config", "HostConfig", "Mounts"} <= set(known["inspected"])
    assert known["process"] == ["echo", "it runs"]
    gated.gate_done("install")


@pytest.mark.parametrize("word", ["allow", "deny"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hung_daemon_behaves_as_was_chosen(
    docker: Docker, keeper: MakeKeeper, word: str, number: signal.Signals
) -> None:
    """Killed: at once. Stopped: after the time that was chosen."""
    keeper(word, 1.5).signal(number)
    result = docker.complete("run", "--rm", images.BUSYBOX, "echo", "it runs")
    if word == "allow":
        assert result.stdout == "it runs\n"
        return
    assert result.returncode == 125
    assert "it runs" not in result.stdout
    line = _refusal(result)
    assert f"rule {RULE}" in line
    assert ("Connection refused" if number == signal.SIGKILL else "within 1.5 s") in line


def test_a_judge_that_takes_too_long_is_answered_for(docker: Docker, keeper: MakeKeeper) -> None:
    """The daemon itself says so, before the hook gives up."""
    keeper("deny", 1.0)
    result = docker.complete("run", "--rm", "--label", "judge=slow", images.BUSYBOX, "true")
    assert "not decided within 1 s" in _refusal(result)


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_where_no_daemon_ever_ran_the_installation_decides(
    gated: GatedEngine, docker: Docker, fail: str
) -> None:
    """Nothing is in the run directory, as after the host has started."""
    for path in (gated.run_dir / "gate").glob("*"):
        path.unlink()
    gated.gate_done("install", "--fail", fail)
    try:
        result = docker.complete("run", "--rm", images.BUSYBOX, "echo", "it runs")
    finally:
        gated.gate_done("install")
    assert (result.returncode == 0) == (fail == "open")
    if fail == "closed":
        assert "rote gate install --fail closed" in _refusal(result)


def test_starts_do_not_wait_for_one_another(docker: Docker, keeper: MakeKeeper) -> None:
    """While one is judged others start, and the engine answers about everything else."""
    one = keeper("deny", 60)
    held = subprocess.Popen(
        [*docker.command, "run", "--name", "held", "--label", "judge=slow", images.BUSYBOX, "true"],
        stderr=subprocess.DEVNULL,
    )
    try:
        one.start_of("held")
        result = docker.complete("run", "--rm", images.BUSYBOX, "echo", "it runs", timeout=30)
        assert result.stdout == "it runs\n"
        assert held.poll() is None
        one.let_go()
        assert held.wait(30) == 0
    finally:
        held.kill()
        held.wait()
        docker("rm", "--force", "held")


def test_a_container_that_is_removed_while_it_is_held_is_gone(
    docker: Docker, keeper: MakeKeeper
) -> None:
    """The engine removes it once the gate has answered; the gate goes on."""
    one = keeper("deny", 4)
    held = subprocess.Popen(
        [*docker.command, "run", "--name", "gone", "--label", "judge=slow", images.BUSYBOX, "true"],
        stderr=subprocess.DEVNULL,
    )
    try:
        one.start_of("gone")
        docker("rm", "--force", "gone", timeout=60)
        held.wait(60)
    finally:
        held.kill()
        held.wait()
    assert "gone" not in docker("ps", "--all", "--format", "{{.Names}}").split()
    assert docker("run", "--rm", images.BUSYBOX, "echo", "it runs") == "it runs"


def test_an_image_that_is_removed_while_its_container_is_judged(
    docker: Docker, keeper: MakeKeeper
) -> None:
    """The engine lets removing it wait for the start, so that what is judged is what runs."""
    one = keeper("deny", 60)
    docker("import", "-", "rote-test/passing:1", stdin=images.busybox_root())
    held = subprocess.Popen(
        [
            *(*docker.command, "run", "--rm", "--name", "passing", "--label", "judge=slow"),
            *("rote-test/passing:1", "echo", "it runs"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        known = one.start_of("passing")
        assert "bin" in known["root"]
        removing = subprocess.Popen(
            [*docker.command, "rmi", "--force", "rote-test/passing:1"], stderr=subprocess.DEVNULL
        )
        # Others are not kept waiting by either.
        assert docker("run", "--rm", images.BUSYBOX, "echo", "it runs") == "it runs"
        one.let_go()
        assert held.communicate(timeout=60)[0] == "it runs\n"
        removing.wait(60)
    finally:
        held.kill()
        held.wait()
        docker.complete("rmi", "--force", "rote-test/passing:1")


def test_the_gate_knows_a_container_as_its_engine_does(docker: Docker, keeper: MakeKeeper) -> None:
    """The same model, or the kernel would be told of another at the start than later."""
    one = keeper()
    container = docker.run(
        images.BUSYBOX, "sleep", "60",
        options=(
            "--env", "A=1", "--user", "1:1", "--workdir", "/var", "--read-only", "--tmpfs", "/tmp",
            "--volume", "/www", "--volume", "/etc/hostname:/mnt:ro", "--entrypoint", "/bin/env",
        ),
    )  # fmt: skip
    from sensor.containers.container import Image
    from sensor.containers.docker import container_from_inspect, split_reference

    found = container.inspect()
    name, tag = split_reference(found["Config"]["Image"])
    engine = container_from_inspect(found, Image(name, tag, "", found["Image"]), "docker")
    assert one.start_of(container.name)["model"] == engine.model_id


def test_without_the_wrapper_containers_say_what_is_missing(
    gated: GatedEngine, docker: Docker
) -> None:
    """The engine names the file. What was made before the gate still starts."""
    wrapper = gated.directory / "rote-runtime"
    old = docker("create", "--runtime", "runc", images.BUSYBOX, "echo", "it runs")
    aside = wrapper.rename(wrapper.with_name("aside"))
    try:
        result = docker.complete("run", "--rm", images.BUSYBOX, "true")
        assert result.returncode != 0
        assert f"{wrapper}: no such file" in result.stderr
        assert docker("start", "--attach", old) == "it runs"
        status = json.loads(gated.gate("status", "-o", "json").stdout)[0]
        assert status["holds"] == "no"
        assert str(gated.directory) in status["note"]
    finally:
        aside.rename(wrapper)
        docker("rm", "--force", old)


def test_a_runtime_that_is_not_there_is_named(gated: GatedEngine, docker: Docker) -> None:
    """The real one was removed, say by an upgrade."""
    conf = gated.directory / "gate.conf"
    text = conf.read_text()
    conf.write_text(text.replace("runtime=", "runtime=/nowhere"))
    try:
        result = docker.complete("run", "--rm", images.BUSYBOX, "true")
    finally:
        conf.write_text(text)
    assert "the real runtime /nowhere" in _refusal(result)


def test_the_failing_of_others_is_told_as_ever(docker: Docker, keeper: MakeKeeper) -> None:
    """A program that is not there: the runtime's own words."""
    keeper()
    result = docker.complete("run", "--rm", images.BUSYBOX, "/nowhere")
    assert result.returncode == 127
    assert '"/nowhere": stat /nowhere: no such file or directory' in result.stderr
    assert "rote:" not in result.stderr


def test_containerd_begins_with_the_hook(
    gated: GatedEngine, keeper: MakeKeeper, tmp_path: Path
) -> None:
    """The base specification, as CRI takes it, on a containerd without Docker."""
    base = tmp_path / "base.json"
    gated.gate_done(
        "install", "--containerd", "--base-spec", str(base),
        "--containerd-config", str(tmp_path / "config.toml"),
    )  # fmt: skip
    one = keeper()
    root = tmp_path / "rootfs"
    root.mkdir()
    subprocess.run(["tar", "-x", "-C", root], input=images.busybox_root(), check=True, timeout=60)

    def run(name: str, *environment: str) -> subprocess.CompletedProcess[str]:
        spec = json.loads(base.read_text())
        spec["root"] = {"path": str(root)}
        spec["process"] |= {"args": ["/bin/echo", "it runs"], "terminal": False}
        spec["process"]["env"] = ["PATH=/bin", *environment]
        spec["linux"]["cgroupsPath"] = f"{gated.engine.cgroup}/{name}"
        config = tmp_path / f"{name}.json"
        config.write_text(json.dumps(spec))
        return subprocess.run(
            [
                *(program("ctr"), "--address", str(gated.home / "containerd.sock"), "run", "--rm"),
                *("--config", str(config), name),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    allowed = run("ctr-good")
    assert allowed.stdout == "it runs\n", allowed.stderr
    assert one.start_of("ctr-good")["gate"] == "hook"
    refused = run("ctr-bad", "judge=deny")
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert "stderr: rote: " in refused.stderr
    assert f"is refused by rule {RULE}" in refused.stderr
    gated.gate_done("remove", "--containerd")
    assert not base.exists()


def test_it_goes_away_without_a_trace_and_without_a_restart() -> None:
    """Byte for byte; containers made meanwhile are named, and start under the real runtime."""
    gated = GatedEngine("gone")
    try:
        original = '{"debug":   false,\n "log-level": "info"}'
        docker = gated.start(original)
        images.import_busybox(docker)
        gated.gate_done("install")
        assert docker("info", "--format", "{{.DefaultRuntime}}") == "rote"
        assert "as it should be" in gated.gate_done("install")
        docker("create", "--name", "left", images.BUSYBOX, "echo", "it runs")
        refused = gated.gate("remove")
        assert refused.returncode == 3
        assert "left: made with our runtime" in refused.stderr
        gated.gate_done("remove", "--keep-runtime")
        assert docker("start", "--attach", "left") == "it runs"
        assert docker("info", "--format", "{{.DefaultRuntime}}") == "runc"
        docker("rm", "left")
        gated.gate_done("remove")
        assert gated.config.read_text() == original
        assert docker("info", "--format", "{{.DefaultRuntime}}") == "runc"
        assert not gated.directory.exists()
        assert docker("run", "--rm", images.BUSYBOX, "echo", "it runs") == "it runs"
        wait_for(lambda: "rote" not in docker("info", "--format", "{{.Runtimes}}"),
                 seconds=10, what="dockerd to forget the runtime")  # fmt: skip
    finally:
        gated.stop()


def test_another_file_than_dockerd_s_is_not_touched(gated: GatedEngine, tmp_path: Path) -> None:
    """It would be written in vain."""
    other = tmp_path / "daemon.json"
    done = gated.gate("install", "--docker-config", str(other))
    assert done.returncode == 3
    assert f"dockerd reads {gated.config}" in done.stderr
    assert not other.exists()


def test_many_starts_at_once(docker: Docker, keeper: MakeKeeper) -> None:
    """Each is asked about, and each answered as its label says."""
    one = keeper()
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [
                *(*docker.command, "run", "--rm", "--name", f"many{n}", "--network", "none"),
                *("--label", "judge=deny" if n % 2 else "judge=no", images.BUSYBOX, "true"),
            ],
            stderr=subprocess.DEVNULL,
        )
        for n in range(8)
    ]
    codes = [process.wait(120) for process in running]
    assert codes == [0, 125] * 4, time.monotonic() - began
    assert one.start_of("many3")["gate"] == "runtime"
