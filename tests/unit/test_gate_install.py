"""What `rote gate install` writes and `rote gate remove` takes away, byte for byte."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from sensor.cli.main import rote
from sensor.errors import BadInputError, HostError, RoteError
from sensor.images.admission import hook_files
from sensor.images.admission.docker_config import DockerConfig
from sensor.images.admission.installed import Installation


class Docker:
    """Reads its file when told, as dockerd does: what a file does not name keeps its value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.default = "runc"
        self.runtimes: dict[str, object] = {}
        self.refuses = False

    def reload(self, expected: str) -> None:
        """As SIGHUP."""
        found = json.loads(self.path.read_bytes() or b"{}") if self.path.exists() else {}
        if not self.refuses:
            self.default = found.get("default-runtime", self.default)
            self.runtimes = found.get("runtimes", self.runtimes)
        if expected and self.default != expected:
            raise HostError(f"its default runtime is {self.default}")


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """Programs in Python: quick to make."""
    made = Installation(tmp_path / "gate")
    made.programs.install(tmp_path / "run", Path("/usr/sbin/runc"), "open", compiler="none")
    return made


def _config(tmp_path: Path, text: str | None, installation: Installation) -> DockerConfig:
    path = tmp_path / "daemon.json"
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)
    return DockerConfig(path, installation)


_VALUES = st.booleans() | st.integers(0, 99) | st.text(max_size=5) | st.lists(st.text(max_size=3))
_FILES = st.none() | st.builds(
    lambda value, indent, end: json.dumps(value, indent=indent) + end,
    st.dictionaries(st.text(min_size=1, max_size=6), _VALUES, max_size=4),
    st.sampled_from([None, 1, 4]),
    st.sampled_from(["", "\n", "\n\n"]),
)


@given(text=_FILES, twice=st.booleans())
def test_the_file_is_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    text: str | None,
    twice: bool,
) -> None:
    """Whatever stood in it; also when it was installed twice."""
    home = tmp_path_factory.mktemp("docker")
    config = _config(home, text, Installation(home / "gate"))
    docker = Docker(config.path)
    assert config.install(docker.reload)
    if twice:
        assert not config.install(docker.reload)
    assert docker.default == "rote"
    assert config.changed_since() == ""
    config.remove(docker.reload)
    assert docker.default == "runc"
    assert "rote" not in docker.runtimes
    assert (config.path.read_text() if config.path.exists() else None) == text


def test_what_was_there_stays(tmp_path: Path, installation: Installation) -> None:
    """Other runtimes, another default, owner and mode."""
    text = json.dumps({"runtimes": {"gpu": {"path": "/bin/gpu"}}, "default-runtime": "gpu"})
    config = _config(tmp_path, text, installation)
    config.path.chmod(0o640)
    docker = Docker(config.path)
    assert config.real_runtime() == "/bin/gpu"
    config.install(docker.reload)
    assert config.real_runtime() == "/bin/gpu"
    found = json.loads(config.path.read_text())
    assert found["runtimes"]["gpu"] == {"path": "/bin/gpu"}
    assert config.path.stat().st_mode & 0o777 == 0o640
    config.remove(docker.reload)
    assert docker.default == "gpu"
    assert config.path.read_text() == text


def test_what_somebody_changed_since_stays_changed(
    tmp_path: Path, installation: Installation
) -> None:
    """It is shown how, and only our entries go."""
    config = _config(tmp_path, '{"debug": true}', installation)
    docker = Docker(config.path)
    config.install(docker.reload)
    found = json.loads(config.path.read_text())
    config.path.write_text(json.dumps({**found, "debug": False, "bip": "10.0.0.1/24"}, indent=2))
    shown = config.changed_since()
    assert '+  "debug": false,' in shown
    assert '-  "debug": true,' in shown
    config.remove(docker.reload)
    assert docker.default == "runc"
    assert json.loads(config.path.read_text()) == {"debug": False, "bip": "10.0.0.1/24"}


def test_a_change_since_survives_installing_again(
    tmp_path: Path, installation: Installation
) -> None:
    """Who took our default away and installs again keeps what he wrote."""
    config = _config(tmp_path, '{"debug": true}', installation)
    docker = Docker(config.path)
    config.install(docker.reload)
    found = json.loads(config.path.read_text())
    config.path.write_text(json.dumps({**found, "default-runtime": "runc", "bip": "x"}))
    config.install(docker.reload)
    assert docker.default == "rote"
    config.remove(docker.reload)
    left = json.loads(config.path.read_text())
    assert (left["debug"], left["bip"]) == (True, "x")
    assert "rote" not in left.get("runtimes", {})
    assert docker.default == "runc"


def test_the_name_can_stay_for_those_that_need_it(
    tmp_path: Path, installation: Installation
) -> None:
    """It means the real runtime then; later it goes, and the file is as it was."""
    config = _config(tmp_path, '{"debug":true}', installation)
    docker = Docker(config.path)
    config.install(docker.reload)
    config.remove(docker.reload, keep_name=True)
    assert docker.default == "runc"
    assert docker.runtimes == {"rote": {"path": "/usr/sbin/runc"}}
    config.install(docker.reload)
    assert docker.default == "rote"
    config.remove(docker.reload, keep_name=True)
    config.remove(docker.reload)
    assert config.path.read_text() == '{"debug":true}'
    assert "rote" not in docker.runtimes


def test_what_docker_refuses_is_taken_back(tmp_path: Path, installation: Installation) -> None:
    """The file, too."""
    config = _config(tmp_path, '{"debug":true}', installation)
    docker = Docker(config.path)
    docker.refuses = True
    with pytest.raises(HostError):
        config.install(docker.reload)
    assert config.path.read_text() == '{"debug":true}'
    assert installation.entries() == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{\n  "debug": true,\n}', ":3:1"),
        ("[]", ":1"),
        ('{\n"runtimes": 3}', ":2"),
        ('{"default-runtime": []}', ":1"),
        ('{"runtimes": {"rote": {"path": "/bin/other"}}}', "rote"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(
    tmp_path: Path, installation: Installation, text: str, place: str
) -> None:
    """Said with its place; nothing is changed."""
    config = _config(tmp_path, text, installation)
    with pytest.raises(BadInputError, match="nothing was changed") as caught:
        config.install(Docker(config.path).reload)
    assert f"{config.path}" in str(caught.value)
    assert place in str(caught.value)
    assert config.path.read_text() == text


def test_a_default_runtime_with_arguments(tmp_path: Path, installation: Installation) -> None:
    """Ours cannot stand before it."""
    text = '{"runtimes": {"x": {"path": "/x", "runtimeArgs": ["-d"]}}, "default-runtime": "x"}'
    with pytest.raises(BadInputError, match="no arguments"):
        _config(tmp_path, text, installation).real_runtime()


@pytest.mark.parametrize("kind", ["podman", "cri-o"])
def test_hooks_d(tmp_path: Path, installation: Installation, kind: str) -> None:
    """As oci-hooks(5) wants it; removed again, unless somebody changed it."""
    path = tmp_path / "hooks.d" / "10-rote.json"
    assert hook_files.install_hooks_d(installation, kind, path)
    assert not hook_files.install_hooks_d(installation, kind, path)
    found = json.loads(path.read_text())
    assert found["version"] == "1.0.0"
    assert found["stages"] == ["createRuntime"]
    assert found["when"] == {"always": True}
    assert Path(found["hook"]["path"]).exists()
    path.write_text("{}")
    with pytest.raises(BadInputError, match="was changed since"):
        hook_files.remove_file(installation, kind)
    with pytest.raises(BadInputError, match="is not ours"):
        hook_files.install_hooks_d(installation, kind, path)
    path.unlink()
    hook_files.install_hooks_d(installation, kind, path)
    hook_files.remove_file(installation, kind)
    assert not path.exists()


_CONFIGS = [
    "version = 2\n",
    "",
    (
        'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n'
        '  runtime_type = "io.containerd.runc.v2"\n  # mine\n'
    ),
    "version = 2\nroot = '/x'\n[grpc]\n  address = '/y' # last line without an end",
]


@pytest.mark.parametrize("text", _CONFIGS)
def test_containerd(tmp_path: Path, installation: Installation, text: str) -> None:
    """One line, and nothing else; and the file as it was."""
    config, base = tmp_path / "config.toml", tmp_path / "base.json"
    if text:
        config.write_text(text)
    said = hook_files.install_containerd(installation, base, config, merge=True)
    assert "restart containerd" in " ".join(said)
    assert json.loads(base.read_text())["hooks"]["createRuntime"][0]["timeout"] == 300
    found = tomllib.loads(config.read_text())
    runc = found["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]["runc"]
    assert runc["base_runtime_spec"] == str(base)
    assert set(text.splitlines()) <= set(config.read_text().splitlines())
    hook_files.install_containerd(installation, base, config, merge=True)
    hook_files.remove_containerd(installation, merge=False)
    assert (config.read_text() if config.exists() else "") == text
    assert not base.exists()


@pytest.mark.parametrize(
    "text",
    [
        "version = 2\nx = ",
        "version = 1\n",
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]\n'
            'base_runtime_spec = "/mine.json"\n'
        ),
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n'
            'containerd = {runtimes = {runc = {runtime_type = "x"}}}\n'
        ),
    ],
)
def test_a_containerd_file_that_cannot_take_a_line(
    tmp_path: Path, installation: Installation, text: str
) -> None:
    """Said, and neither file is changed."""
    config, base = tmp_path / "config.toml", tmp_path / "base.json"
    config.write_text(text)
    with pytest.raises(BadInputError):
        hook_files.install_containerd(installation, base, config, merge=True)
    assert config.read_text() == text
    assert not base.exists()


def test_containerd_without_merging_says_what_to_put_where(
    tmp_path: Path, installation: Installation
) -> None:
    """And does not go while the line is there."""
    config, base = tmp_path / "config.toml", tmp_path / "base.json"
    said = hook_files.install_containerd(installation, base, config, merge=False)
    assert str(config) in said[1]
    config.write_text(f"version = 2\n{said[2]}")
    assert tomllib.loads(config.read_text())
    assert hook_files.remove_containerd(installation, merge=False)[-1].endswith("removed")


def _rote(tmp_path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        rote,
        [
            *("--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path / "run"), "gate"),
            *arguments,
        ],
    )


def test_the_commands(tmp_path: Path) -> None:
    """Install, status, remove, for a host without a Docker Engine that runs."""
    config = tmp_path / "daemon.json"
    where = ("--docker-config", str(config), "--docker-socket", str(tmp_path / "no.sock"))
    hooks = tmp_path / "hooks.d/10-rote.json"
    assert "no gate is installed" in _rote(tmp_path, "status", *where).output
    done = _rote(
        tmp_path, "install", "--docker", "--podman", *where, "--hooks-file", str(hooks),
        "--compiler", "none", "--fail", "closed",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "it takes it when it starts" in done.output
    rows = json.loads(_rote(tmp_path, "status", *where, "-o", "json").output)
    assert [(row["gate"], row["holds"], row["fail"]) for row in rows] == [
        ("docker", "unknown", "closed"),
        ("podman", "yes", "closed"),
    ]
    assert rows[0]["runtime"] == shutil.which("runc", path="/usr/sbin:/usr/bin:/sbin")
    assert _rote(tmp_path, "remove", *where).exit_code == 0
    assert not config.exists()
    assert not hooks.exists()
    assert not (tmp_path / "state/gate").exists()
    assert "no gate is installed" in _rote(tmp_path, "remove", *where).output


def test_a_changed_file_is_not_removed_without_asking(tmp_path: Path) -> None:
    """`--merge` is the way."""
    config = tmp_path / "daemon.json"
    where = ("--docker-config", str(config), "--docker-socket", str(tmp_path / "no.sock"))
    _rote(tmp_path, "install", *where, "--compiler", "none")
    config.write_text(config.read_text().replace("{\n", '{\n  "bip": "x",\n', 1))
    refused = _rote(tmp_path, "remove", *where)
    assert isinstance(refused.exception, RoteError)
    assert '+  "bip": "x",' in str(refused.exception)
    assert _rote(tmp_path, "remove", *where, "--merge").exit_code == 0
    assert json.loads(config.read_text()) == {"bip": "x"}
