"""The fanotify gate on directories of the tests' own: no engine, no runtime, real opens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from sensor.errors import KernelSupportError
from sensor.images.admission.bundle import RuntimeHook, insert
from sensor.images.admission.bundle_watch import TASKS
from sensor.images.admission.fanotify import Ask, FanotifyGate, end_left
from sensor.images.admission.start import Answer, Failure
from sensor.kernel.fanotify import PermissionGroup
from tests.waiting import until

pytestmark = pytest.mark.kernel
HOOK = RuntimeHook("/bin/true", ("x",))
SPEC = json.dumps({"ociVersion": "1.0.2", "process": {"env": ["A=" + "x" * 20_000]}}).encode()
INJECTED = insert(SPEC, HOOK)


@asynccontextmanager
async def gate(
    home: Path,
    hook: RuntimeHook | None = HOOK,
    *,
    ask: Ask | None = None,
    failure: Failure | None = None,
    limit: float = 0.5,
) -> AsyncGenerator[FanotifyGate]:
    """A gate on ``home/state``, listening."""
    (home / "state").mkdir(mode=0o711, exist_ok=True)
    found = FanotifyGate(home, (home / "state",), hook, ask=ask, failure=failure, limit=limit)
    await found.start()
    try:
        assert await found.ready(20), found.status()
        yield found
    finally:
        await found.close()


class Bundle:
    """A bundle, made as containerd makes it.

    Args:
        home: the state directory is in there.
        name: of the container.
    """

    def __init__(self, home: Path, name: str = "c1") -> None:
        self.path = home / "state" / TASKS / "moby" / name
        self.path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        self.config = self.path / "config.json"

    async def marked(self, gate: FanotifyGate) -> None:
        """Wait until opens in it are held."""
        mark = f"fanotify ino:{self.path.stat().st_ino:x} "
        await until(lambda: any(line.startswith(mark) for line in _marks(gate)))

    async def write(self, data: bytes = SPEC) -> None:
        """Write ``config.json`` in one go, in another process."""
        await run("cat >" + str(self.config), data)

    async def read(self) -> bytes:
        """What another process reads."""
        return (await run(f"cat {self.config}"))[1]


async def run(script: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a shell script; code, output, errors."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", script,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, errors = await process.communicate(data)
    assert process.returncode is not None
    return process.returncode, output, errors


async def test_the_first_reader_finds_the_hook(tmp_path: Path) -> None:
    """And every other, also many at once; owner and mode stay."""
    async with gate(tmp_path) as found:
        bundle = Bundle(tmp_path)
        await bundle.marked(found)
        await bundle.write()
        bundle.config.chmod(0o640)
        before = bundle.config.stat()
        assert set(await asyncio.gather(*(bundle.read() for _ in range(8)))) == {INJECTED}
        after = bundle.config.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        await until(lambda: found.status()["injected"] == 1)
        status = found.status()
        assert (status["held"], status["ahead"], status["denied"]) == (1, 0, 0)
        # Its container is made: nobody is held any more.
        await run(f"echo 1 >{bundle.path}/init.pid")
        await until(lambda: not _marks(found))
        assert found.status()["missed"] == 0


async def test_nobody_sees_half_when_it_was_there_before_us(tmp_path: Path) -> None:
    """Readers that were there first see the old one or the new one, whole."""
    config = tmp_path / "state" / TASKS / "moby" / "c1" / "config.json"
    reader = f"""
while True:
    try:
        data = open("{config}", "rb").read()
    except FileNotFoundError:
        continue
    print(len(data), flush=True)
    if b"/bin/true" in data:
        break
"""
    async with gate(tmp_path) as found:
        made = Bundle(tmp_path, "elsewhere")
        made.path = made.path.rename(tmp_path / "made")
        (made.path / "config.json").write_bytes(SPEC)
        os.setxattr(made.path / "config.json", "trusted.test", b"kept")
        readers = [
            asyncio.create_task(run(f"exec {sys.executable} -c '{reader}'")) for _ in range(2)
        ]
        await asyncio.sleep(0.5)  # they look for it by now
        target = made.path.rename(config.parent)
        outputs = await asyncio.gather(*readers)
        lengths = {int(line) for _, output, _ in outputs for line in output.split()}
        assert INJECTED is not None
        assert {len(INJECTED)} <= lengths <= {len(SPEC), len(INJECTED)}
        assert (target / "config.json").read_bytes() == INJECTED
        assert os.getxattr(target / "config.json", "trusted.test") == b"kept"
        assert sorted(path.name for path in target.iterdir()) == ["config.json"]
        await until(lambda: found.status()["ahead"] == 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_listener_that_is_gone_or_hangs_holds_nobody(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Killed: at once. Stopped: the guard kills it. Both: another one comes."""
    async with gate(tmp_path) as found:
        bundle = Bundle(tmp_path)
        await bundle.marked(found)
        await bundle.write()
        old = found.status()["listener"]
        os.kill(old, signal.SIGSTOP)
        reading = asyncio.create_task(bundle.read())
        await until(lambda: _waits_for_fanotify(bundle.config))
        os.kill(old, number)
        assert await reading == SPEC
        await until(lambda: found.status()["restarts"] == 1 and found.status()["state"] == "on")
        assert not _runs(old)
        second = Bundle(tmp_path, "c2")
        await second.marked(found)
        await second.write()
        assert await second.read() == INJECTED


async def test_a_guard_that_is_killed_takes_the_listener_along(tmp_path: Path) -> None:
    """There is never a listener that nobody watches."""
    async with gate(tmp_path) as found:
        status = found.status()
        os.kill(status["worker"], signal.SIGKILL)
        await until(lambda: not _runs(status["listener"]))
        await until(lambda: found.status()["state"] == "on" and found.status()["restarts"] == 1)


async def test_without_room_it_is_left_as_it_was(tmp_path: Path) -> None:
    """A full file system: the start goes on, ungated, and that is said."""
    with _tmpfs(tmp_path / "full", "256k") as home:
        async with gate(home) as found:
            bundle = Bundle(home)
            await bundle.marked(found)
            page = os.sysconf("SC_PAGE_SIZE")
            spec = SPEC[:-1] + b" " * (-len(SPEC) % page) + b"}"
            assert len(spec) % page == 0
            await bundle.write(spec)
            await run(f"cat /dev/zero >{home}/filler")
            assert await bundle.read() == spec
            await run(f": >{bundle.path}/init.pid")
            await until(lambda: found.status()["missed"] == 1)
            (missed,) = found.status()["last_missed"]
            assert missed["missed"] == str(bundle.path)
            assert "No space left" in missed["reason"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no JSON", "expected JSON"),
        (SPEC + b" " * (5 << 20), "at most"),
        (b'{"ociVersion":"1","Hooks":{}}', "spelled otherwise"),
    ],
)
async def test_what_we_may_not_change_stays_and_is_said(
    tmp_path: Path, data: bytes, words: str
) -> None:
    """The start goes on without us."""
    async with gate(tmp_path) as found:
        bundle = Bundle(tmp_path)
        await bundle.marked(found)
        await bundle.write(data)
        assert await bundle.read() == data
        await run(f": >{bundle.path}/init.pid")
        await until(lambda: found.status()["missed"] == 1)
        assert words in found.status()["last_missed"][0]["reason"]


async def test_a_hook_that_is_gone_is_not_injected(tmp_path: Path) -> None:
    """The runtime would refuse every start for it."""
    async with gate(tmp_path, RuntimeHook(str(tmp_path / "gone"))) as found:
        bundle = Bundle(tmp_path)
        await bundle.marked(found)
        await bundle.write()
        assert await bundle.read() == SPEC
        await run(f": >{bundle.path}/init.pid")
        await until(lambda: found.status()["missed"] == 1)
        assert "gone: is not there" in found.status()["last_missed"][0]["reason"]


async def test_what_others_may_write_to_is_not_touched(tmp_path: Path) -> None:
    """A directory that is not root's alone, a second name, a link: none is ours to write to."""
    secret = tmp_path / "secret.json"
    secret.write_bytes(SPEC)
    async with gate(tmp_path) as found:
        first = Bundle(tmp_path, "c1")
        await first.marked(found)
        (first.path / "config.json").hardlink_to(secret)
        assert await first.read() == SPEC
        second = Bundle(tmp_path, "c2")
        await second.marked(found)
        (second.path / "config.json").symlink_to(secret)
        assert await second.read() == SPEC
        theirs = Bundle(tmp_path, "elsewhere")
        theirs.path.chmod(0o777)
        theirs.path.rename(theirs.path.with_name("open"))
        await until(lambda: found.status()["missed"] == 1)
        assert "others than root may write" in found.status()["last_missed"][0]["reason"]
        namespace = tmp_path / "theirs"
        namespace.mkdir()
        os.chown(namespace, 1000, 1000)
        (namespace / "c").mkdir()
        (namespace / "c" / "config.json").write_bytes(SPEC)
        namespace = namespace.rename(theirs.path.parent.parent / "theirs")
        await until(lambda: "theirs: not watched" in found.status()["problem"])
    assert secret.read_bytes() == SPEC
    assert (namespace / "c" / "config.json").read_bytes() == SPEC


async def test_who_is_there_already_is_left_alone(tmp_path: Path) -> None:
    """Containers that run when the gate begins, by their pid file or their age."""
    bundles = [Bundle(tmp_path, name) for name in ("running", "old", "young")]
    for bundle in bundles:
        bundle.config.write_bytes(SPEC)
    (bundles[0].path / "init.pid").write_text("1")
    os.utime(bundles[1].config, (0, 0))
    async with gate(tmp_path) as found:
        await until(lambda: found.status()["ahead"] == 1)
    assert [bundle.config.read_bytes() for bundle in bundles] == [SPEC, SPEC, INJECTED]


async def test_what_the_kernel_could_not_tell_is_looked_up(tmp_path: Path) -> None:
    """So many bundles came and went that events of them were lost."""
    async with gate(tmp_path, limit=16) as found:
        first = Bundle(tmp_path, "first")
        await first.marked(found)
        listener = found.status()["listener"]
        os.kill(listener, signal.SIGSTOP)
        await asyncio.to_thread(_overflow, first.path.parent / "passing")
        second = Bundle(tmp_path, "second")
        os.kill(listener, signal.SIGCONT)
        await second.marked(found)
        await second.write()
        assert await second.read() == INJECTED
        await first.write()
        assert await first.read() == INJECTED


async def test_directories_that_come_later_and_again(tmp_path: Path) -> None:
    """A containerd is not there yet, or its state is made anew."""
    async with gate(tmp_path) as found:
        for turn in range(2):
            bundle = Bundle(tmp_path, f"c{turn}")
            await bundle.marked(found)
            await bundle.write()
            assert await bundle.read() == INJECTED
            shutil.rmtree(tmp_path / "state")
            await until(lambda: not _marks(found))
            (tmp_path / "state").mkdir(mode=0o711)


def _deny(bundle: Path) -> Answer:
    return Answer(allow=not bundle.name.startswith("bad"))


async def _answer(bundle: Path) -> Answer:
    await asyncio.sleep(0.05)
    assert (bundle / "config.json").read_bytes() == SPEC  # the daemon is never held
    return _deny(bundle)


async def _never(_bundle: Path) -> Answer:
    await asyncio.sleep(600)
    raise AssertionError


@pytest.mark.parametrize(
    ("ask", "failure", "refused"),
    [
        (_answer, Failure(), [False, True]),
        (_never, Failure(allow=False, seconds=0.3), [True, True]),
        (_never, Failure(allow=True, seconds=0.3), [False, False]),
    ],
)
async def test_without_a_hook_the_open_is_refused(
    tmp_path: Path,
    ask: Callable[[Path], Awaitable[Answer]],
    failure: Failure,
    refused: list[bool],
) -> None:
    """The daemon decides; else what was chosen for that; other containers are not kept waiting."""
    async with gate(tmp_path, None, ask=ask, failure=failure) as found:
        bundles = [Bundle(tmp_path, name) for name in ("good", "bad")]
        for bundle in bundles:
            await bundle.marked(found)
            await bundle.write()
        results = await asyncio.gather(*(run(f"cat {b.config}") for b in bundles for _ in "12"))
        assert [code != 0 for code, _, _ in results] == [no for no in refused for _ in "12"]
        assert all(b"not permitted" in errors for code, _, errors in results if code)
        assert all(output == SPEC for code, output, _ in results if not code)
        await until(lambda: found.status()["denied"] == 2 * sum(refused))


async def test_rules_change_what_happens_without_an_answer(tmp_path: Path) -> None:
    """At once, for the worker that runs."""
    patient = Failure(allow=True, seconds=600)
    async with gate(tmp_path, None, ask=_never, failure=patient) as found:
        found.set_failure(Failure(allow=False, seconds=0.2))
        bundle = Bundle(tmp_path)
        await bundle.marked(found)
        await bundle.write()
        code, output, errors = await run(f"cat {bundle.config}")
        assert (code, output) == (1, b"")
        assert b"not permitted" in errors


async def test_what_is_left_is_ended(tmp_path: Path) -> None:
    """As `rote unload` does; and only a worker, whatever the file says."""
    assert not end_left(tmp_path)
    async with gate(tmp_path) as found:
        lock = tmp_path / "fanotify.lock"
        worker = found.status()["worker"]
        await until(lambda: lock.exists() and lock.read_text() == str(worker))
        lock.write_text(str(os.getpid()))
        assert not end_left(tmp_path)
        lock.write_text(str(worker))
        assert end_left(tmp_path)
        await until(lambda: found.status()["restarts"] == 1)
        assert not _runs(worker)


_DAEMON = """
import asyncio, sys
from pathlib import Path
from sensor.images.admission.bundle import RuntimeHook
from sensor.images.admission.fanotify import FanotifyGate
from sensor.images.admission.start import Failure
async def main():
    home = Path(sys.argv[1])
    gate = FanotifyGate(home, (home / "state",), RuntimeHook("/bin/true", ("x",)),
                        failure=Failure(allow=False))
    await gate.start()
    assert await gate.ready(20)
    print(gate.status()["worker"], gate.status()["listener"], flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_it_outlives_the_daemon_and_the_next_takes_over(tmp_path: Path) -> None:
    """Who wants starts refused without a daemon needs the hook in them without one."""
    (tmp_path / "state").mkdir(mode=0o711)
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DAEMON, str(tmp_path), stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    worker, listener = map(int, (await daemon.stdout.readline()).split())
    await until(lambda: (tmp_path / "fanotify.lock").read_text() == str(worker))
    daemon.kill()
    await daemon.wait()
    try:
        first = Bundle(tmp_path)
        await until(lambda: _marks_of(listener))
        await first.write()
        assert await first.read() == INJECTED
        async with gate(tmp_path) as found:
            await until(lambda: not _runs(listener))
            await until(
                lambda: (tmp_path / "fanotify.lock").read_text() == str(found.status()["worker"])
            )
            second = Bundle(tmp_path, "c2")
            await second.marked(found)
            await second.write()
            assert await second.read() == INJECTED
    finally:
        if _runs(listener):
            os.kill(worker, signal.SIGKILL)


def test_without_permission_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line."""
    monkeypatch.setattr("sensor.kernel.fanotify._CLASS_PRE_CONTENT", 0x0C)  # no such class
    with pytest.raises(KernelSupportError, match="CONFIG_FANOTIFY_ACCESS_PERMISSIONS"):
        PermissionGroup()


# ---- looking at processes


def _marks_of(listener: int) -> list[str]:
    found: list[str] = []
    for file in Path(f"/proc/{listener}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            lines = file.read_text().splitlines()
            found.extend(line for line in lines if line.startswith("fanotify ino:"))
    return found


def _overflow(path: Path) -> None:
    """Make and remove a directory more often than a watch can tell of."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for _ in range(most // 2 + 10):
        path.mkdir()
        path.rmdir()


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _marks(gate: FanotifyGate) -> list[str]:
    return _marks_of(gate.status()["listener"])


def _waits_for_fanotify(path: Path) -> bool:
    """Whether a process that was given this path waits in its open."""
    for process in Path("/proc").iterdir():
        try:
            opens = str(path).encode() in (process / "cmdline").read_bytes()
            if opens and "fanotify" in (process / "wchan").read_text():
                return True
        except OSError:
            continue
    return False


@contextmanager
def _tmpfs(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "rote", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)
