"""The gate's programs, in C and in Python, against servers of all kinds: the same answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import BadInputError, HostError
from sensor.images.admission.failures import FailureFiles
from sensor.images.admission.programs import Programs
from sensor.images.admission.start import Failure

ID = "c" * 64
KINDS = ("C", "Python")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Programs, Path]]:
    """Both kinds, each with a run directory. The real runtime is a script that notes its call."""
    found = {}
    for kind in KINDS:
        home = tmp_path_factory.mktemp(kind)
        real = home / "runc"
        real.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >"${0%/*}/called"\nexit "${CODE:-0}"\n')
        real.chmod(0o755)
        programs = Programs(home / "gate")
        run_dir = home / "run"
        run_dir.mkdir()
        made = programs.install(run_dir, real, "open", compiler="auto" if kind == "C" else "none")
        assert made == kind
        found[kind] = programs, run_dir
    return found


@pytest.fixture(params=KINDS)
def gate(
    request: pytest.FixtureRequest, installed: dict[str, tuple[Programs, Path]]
) -> Iterator[tuple[Programs, Path]]:
    """One kind; its run directory is empty."""
    programs, run_dir = installed[request.param]
    yield programs, run_dir
    shutil.rmtree(run_dir)
    run_dir.mkdir()


def _state(bundle: Path | str = "/bundle", **more: Any) -> bytes:
    return json.dumps(
        {"ociVersion": "1.0.2", "id": ID, "pid": 1, "bundle": str(bundle), **more}
    ).encode()


def _hook(programs: Programs, state: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [programs.hook, *arguments], input=state, capture_output=True, timeout=60, check=False
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


class Server:
    """Answers each connection with the same bytes, and keeps what was asked."""

    def __init__(self, run_dir: Path, answer: Callable[[bytes], bytes | None]) -> None:
        self.asked: list[bytes] = []
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(run_dir / "gate.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._open: list[socket.socket] = []
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            data = b""
            while b"\n" not in data or len(data.partition(b"\n")[2]) < int(data.split()[2]):
                data += connection.recv(1 << 16)
            self.asked.append(data)
            answer = self._answer(data)
            if answer is None:
                self._open.append(connection)
                continue
            connection.sendall(answer)
            connection.close()

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in (self._listener, *self._open):
            one.close()


@pytest.fixture
def serve(gate: tuple[Programs, Path]) -> Iterator[Callable[[bytes | None], Server]]:
    """Makes a server with one answer; None: it never answers."""
    made: list[Server] = []

    def make(answer: bytes | None) -> Server:
        made.append(Server(gate[1], lambda _: answer))
        return made[-1]

    yield make
    for server in made:
        server.close()


def test_allowed(gate: tuple[Programs, Path], serve: Callable[[bytes | None], Server]) -> None:
    """The state is handed over as it came, and nothing is said."""
    server = serve(b"allow\n")
    state = _state(annotations={"a": 'quoted " and \\ and \u00e4'})
    done = _hook(gate[0], state, "--gate=runtime")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.asked == [b"rote-gate 1 %d runtime\n" % len(state) + state]


def test_denied_with_a_reason(
    gate: tuple[Programs, Path], serve: Callable[[bytes | None], Server], tmp_path: Path
) -> None:
    """On standard error; in the bundle only for whoever asked for it there."""
    serve(b"deny: by rule strict: 1 critical\n")
    done = _hook(gate[0], _state(tmp_path))
    assert (done.returncode, done.stderr) == (1, "rote: by rule strict: 1 critical\n")
    assert list(tmp_path.iterdir()) == []
    _hook(gate[0], _state(tmp_path), "--word")
    assert (tmp_path / "rote-answer").read_text() == "rote: by rule strict: 1 critical"


def test_a_word_is_not_left_through_a_link(
    gate: tuple[Programs, Path], serve: Callable[[bytes | None], Server], tmp_path: Path
) -> None:
    """Nor is a file that is there written over."""
    serve(b"deny: no\n")
    (tmp_path / "rote-answer").symlink_to(tmp_path / "victim")
    assert _hook(gate[0], _state(tmp_path), "--word").returncode == 1
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("answer", [b"", b"what\n", b"allow", b"x" * 100_000, b"deny\n", b"\0\n"])
@pytest.mark.parametrize("allow", [True, False])
def test_answers_that_are_none(
    gate: tuple[Programs, Path],
    serve: Callable[[bytes | None], Server],
    answer: bytes,
    allow: bool,
) -> None:
    """What was chosen counts, and the rule is named."""
    FailureFiles(gate[1]).start(Failure(allow, 5, "strict"))
    serve(answer)
    done = _hook(gate[0], _state())
    assert done.returncode == (0 if allow else 1)
    assert done.stderr.count("\n") == 1
    assert "rule strict" in done.stderr


def test_no_answer_in_time(
    gate: tuple[Programs, Path], serve: Callable[[bytes | None], Server]
) -> None:
    """A daemon that hangs is not waited for longer than was chosen."""
    FailureFiles(gate[1]).start(Failure(False, 0.1, "strict"))
    serve(None)
    done = _hook(gate[0], _state())
    assert done.returncode == 1
    assert done.stderr == (
        "rote: nobody decided about this start (no answer within 0.1 s); it is refused: "
        "rule strict\n"
    )


def test_the_container_s_own_choice_comes_first(gate: tuple[Programs, Path]) -> None:
    """Then the default, then what was installed: open here."""
    files = FailureFiles(gate[1])
    assert _hook(gate[0], _state()).returncode == 0
    files.start(Failure(False, 5, "all"))
    assert "rule all" in _hook(gate[0], _state()).stderr
    files.put(ID, Failure(True, 5, "this"))
    done = _hook(gate[0], _state())
    assert done.returncode == 0
    assert "it goes on: rule this" in done.stderr
    files.remove(ID)
    assert _hook(gate[0], _state()).returncode == 1
    files.put(ID, Failure(True, 5, "this"))
    files.start(Failure(False, 5, "all"))
    assert _hook(gate[0], _state()).returncode == 1, "an earlier daemon's files count no more"


def test_what_is_out_of_service_is_refused_without_asking(
    gate: tuple[Programs, Path], tmp_path: Path
) -> None:
    """By the hook and by the runtime, also while no daemon lives; until it may run again."""
    files = FailureFiles(gate[1])
    files.start(Failure(True, 5, "all"))
    files.bar(ID, "it was taken\nout of service")
    files.put(ID, Failure(True, 5, "this"))
    message = "rote: it was taken out of service"
    done = _hook(gate[0], _state())
    assert (done.returncode, done.stderr) == (1, f"{message}\n")
    log = tmp_path / "log"
    assert _create(gate[0], _bundle(tmp_path, "{}"), log).returncode == 1
    assert json.loads(log.read_text()) == {"level": "error", "msg": message}
    assert (tmp_path / "config.json").read_text() == "{}"
    files.unbar(ID)
    assert _hook(gate[0], _state()).returncode == 0
    files.put(ID, Failure(False, 5, "this"))
    assert "rule this" in _hook(gate[0], _state()).stderr


def test_closed_by_installation(gate: tuple[Programs, Path]) -> None:
    """Where no daemon ever wrote anything."""
    text = gate[0].conf.read_text()
    gate[0].conf.write_text(text.replace("fail=open", "fail=closed"))
    try:
        done = _hook(gate[0], _state())
    finally:
        gate[0].conf.write_text(text)
    assert done.returncode == 1
    assert "No such file or directory); it is refused: rote gate install" in done.stderr


@pytest.mark.parametrize("name", ["../x", ".", "..", "/etc/passwd", "", "a/b", "default"])
def test_an_id_is_no_path(gate: tuple[Programs, Path], name: str) -> None:
    """What a container is called names no file elsewhere."""
    FailureFiles(gate[1]).start(Failure(True, 5, "all"))
    (gate[1] / "x").write_text("deny 5 planted\n")
    done = _hook(gate[0], json.dumps({"id": name, "pid": 1, "bundle": "/b"}).encode())
    assert done.returncode == 0
    assert "rule all" in done.stderr


@pytest.mark.parametrize(
    "state", [b"", b"{", b"[]", b'{"id": 1}', b"{" * 5000, b"\0" * 100, b"x" * (2 << 20)]
)
def test_a_state_that_is_none_is_the_daemon_s_to_refuse(
    gate: tuple[Programs, Path], serve: Callable[[bytes | None], Server], state: bytes
) -> None:
    """It is handed over all the same: the log of the daemon is where it is looked for."""
    server = serve(b"deny: what is this?\n")
    done = _hook(gate[0], state)
    assert (done.returncode, done.stderr) == (1, "rote: what is this?\n")
    assert len(server.asked) == 1


@pytest.mark.parametrize("file", ["", "allow", "maybe 5 x", "allow -1 x", "allow x y", "\0\0"])
def test_a_damaged_choice_is_passed_over(gate: tuple[Programs, Path], file: str) -> None:
    """The next one counts."""
    FailureFiles(gate[1]).start(Failure(False, 5, "all"))
    (gate[1] / "gate" / ID).write_text(file)
    done = _hook(gate[0], _state())
    assert done.returncode == 1
    assert "rule all" in done.stderr


def _bundle(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config.json").write_text(text)
    return tmp_path


def _create(
    programs: Programs, bundle: Path, log: Path, *, code: int = 0
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [
            *(programs.runtime, "--root", "/r", "--log", log, "--log-format", "json", "create"),
            *("--bundle", bundle, "--pid-file", "/p", ID),
        ],
        env={**os.environ, "CODE": str(code)},
        capture_output=True,
        timeout=60,
        check=False,
    )


def _called(programs: Programs) -> list[str]:
    return (programs.directory.parent / "called").read_text().splitlines()


def _expected(programs: Programs, spec: dict[str, Any]) -> dict[str, Any]:
    name = str(programs.hook)
    hook = {"path": name, "args": [name, "--gate=runtime", "--word"], "timeout": 300}
    hooks = spec.get("hooks") or {}
    stage = hooks.get("createRuntime") or []
    return {**spec, "hooks": {**hooks, "createRuntime": [hook, *stage]}}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)
_STAGES = st.none() | st.lists(st.fixed_dictionaries({"path": st.text(max_size=8)}), max_size=3)
_HOOKS = st.none() | st.dictionaries(
    st.sampled_from(["createRuntime", "prestart", "poststop"]), _STAGES, max_size=3
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_the_hook_is_put_in_and_nothing_else_changes(
    installed: dict[str, tuple[Programs, Path]],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    data: st.DataObject,
) -> None:
    """Whatever else stands in config.json; and once only."""
    programs = installed[kind][0]
    spec = data.draw(st.dictionaries(st.text(max_size=6), _JSON, max_size=4))
    if data.draw(st.booleans()):
        spec["hooks"] = data.draw(_HOOKS)
    elif not isinstance(spec.get("hooks"), dict):
        spec.pop("hooks", None)
    home = tmp_path_factory.mktemp("bundle")
    indent = data.draw(st.sampled_from([None, 1]))
    bundle = _bundle(home, json.dumps(spec, indent=indent, ensure_ascii=data.draw(st.booleans())))
    for _ in range(2):
        assert _create(programs, bundle, home / "log").returncode == 0
        assert json.loads((bundle / "config.json").read_text()) == _expected(programs, spec)
    assert not (home / "log").exists()


def test_the_real_runtime_is_called_as_it_was(gate: tuple[Programs, Path], tmp_path: Path) -> None:
    """Every argument in its place, and its exit code is ours."""
    done = _create(gate[0], _bundle(tmp_path, "{}"), tmp_path / "log", code=7)
    assert done.returncode == 7
    assert _called(gate[0]) == [
        *("--root", "/r", "--log", str(tmp_path / "log"), "--log-format", "json", "create"),
        *("--bundle", str(tmp_path), "--pid-file", "/p", ID),
    ]
    subprocess.run([gate[0].runtime, "--version"], check=True, timeout=60)
    assert _called(gate[0]) == ["--version"]


def test_the_reason_is_the_last_word_of_the_log(
    gate: tuple[Programs, Path], tmp_path: Path
) -> None:
    """The engine shows the last error; what the hook left stands there alone."""
    real = gate[0].directory.parent / "runc"
    text = real.read_text()
    (tmp_path / "word").write_text('rote: no "x"\nand no')
    real.write_text(f"#!/bin/sh\ncp {tmp_path}/word {tmp_path}/rote-answer\nexit 1\n")
    (tmp_path / "log").write_text('{"level":"error","msg":"runc says much"}\n')
    try:
        assert _create(gate[0], _bundle(tmp_path, "{}"), tmp_path / "log").returncode == 1
    finally:
        real.write_text(text)
    lines = (tmp_path / "log").read_text().splitlines()
    assert json.loads(lines[-1]) == {"level": "error", "msg": 'rote: no "x"\nand no'}
    assert not (tmp_path / "rote-answer").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hooks": 3}', '{"a":1} x', '{"a" 1}'])
@pytest.mark.parametrize("allow", [True, False])
def test_a_bundle_that_cannot_be_read_behaves_as_was_chosen(
    gate: tuple[Programs, Path], tmp_path: Path, text: str, allow: bool
) -> None:
    """Nobody can be asked about it."""
    FailureFiles(gate[1]).start(Failure(allow, 5, "strict"))
    done = _create(gate[0], _bundle(tmp_path, text), tmp_path / "log")
    assert done.returncode == (0 if allow else 1)
    assert (tmp_path / "config.json").read_text() == text
    if not allow:
        (line,) = (tmp_path / "log").read_text().splitlines()
        assert "is no config.json of a container" in json.loads(line)["msg"]


def test_other_commands_touch_nothing(gate: tuple[Programs, Path], tmp_path: Path) -> None:
    """Only what makes a container is looked at."""
    bundle = _bundle(tmp_path, "{}")
    for words in (["state", ID], ["exec", "--process", "x", ID], ["delete", "--force", ID]):
        subprocess.run([gate[0].runtime, *words], check=True, timeout=60, cwd=bundle)
        assert _called(gate[0]) == words
    assert (bundle / "config.json").read_text() == "{}"
    subprocess.run([gate[0].runtime, "run", ID], check=True, timeout=60, cwd=bundle)
    assert "createRuntime" in (bundle / "config.json").read_text()


def test_no_such_compiler(tmp_path: Path) -> None:
    """It is said, and no program is left half made."""
    with pytest.raises(HostError, match="no such compiler"):
        Programs(tmp_path).install(tmp_path, Path("/bin/true"), "open", compiler="/no/cc")
    assert Programs(tmp_path).kind() == ""


@pytest.mark.parametrize("compiler", ["auto", "none"])
def test_a_place_where_nothing_can_be_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    """No container would start; so nothing is installed."""
    monkeypatch.setattr("sensor.images.admission.programs._runs", lambda _: False)
    with pytest.raises(HostError, match="noexec"):
        Programs(tmp_path).install(tmp_path, Path("/bin/true"), "open", compiler=compiler)
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_a_line_break(tmp_path: Path) -> None:
    """It would be another setting."""
    with pytest.raises(BadInputError, match="line break"):
        Programs(tmp_path).install(tmp_path, Path("/bin/true\nfail=open"), "closed")


def test_they_go_away(tmp_path: Path) -> None:
    """With their directory, and twice."""
    programs = Programs(tmp_path / "gate")
    programs.install(tmp_path, Path("/bin/true"), "open", compiler="none")
    programs.remove()
    programs.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_script_needs_nothing_but_python() -> None:
    """Runtimes start it with an empty environment; nothing of Rote is on its path."""
    script = Path(sys.modules[Programs.__module__].__file__ or "").with_name("gate_script.py")
    assert "import sensor" not in script.read_text()
    assert "from sensor" not in script.read_text()
    assert script.read_text().startswith("#!/usr/bin/python3 -IS\n")
