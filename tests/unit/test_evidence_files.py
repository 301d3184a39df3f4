"""What is read of a container's file system, of its processes and sockets; what never is."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from sensor.reading import Deadline, Root
from sensor.responses.evidence.files import (
    Contents,
    Entry,
    FileLimits,
    Tree,
    entry_of,
    walk,
)
from sensor.responses.evidence.mounts import lower_directories, mount_of, read_mounts
from sensor.responses.evidence.pack import Member, Part, TarWriter
from sensor.responses.evidence.processes import Processes
from sensor.responses.evidence.secrets import Secrets
from sensor.responses.evidence.sockets import address, read_sockets
from sensor.responses.evidence.worker import Request, Worker


class Taken:
    """What was read of a directory."""

    def __init__(
        self,
        place: Path,
        upper: Path,
        *,
        lower: tuple[Path, ...] = (),
        limits: FileLimits | None = None,
        seconds: float = 60,
        pack_max: int = 64 << 20,
    ) -> None:
        self.part = Part("file system")
        self.members: list[Member] = []
        self.path = place / "pack.tar"
        limits = limits or FileLimits()
        tree = Tree(Root(upper), "", "layer", [Root(path) for path in lower])
        deadline = Deadline(seconds)
        entries = list(walk(tree, self.part, limits.entries, deadline))
        with io.FileIO(self.path, "w+") as file:
            writer = TarWriter(file, pack_max)
            contents = Contents(writer, self.members.append, limits, deadline)
            contents.take([tree], entries, self.part)
            writer.finish()
        self.entries = {entry.path: entry for entry in entries}

    def content(self, path: str) -> bytes:
        """What was kept of a file."""
        with tarfile.open(self.path) as archive:
            file = archive.extractfile(self.entries[path].member)
            assert file is not None
            return file.read()


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """An upper directory."""
    path = tmp_path / "upper"
    path.mkdir()
    return path


def sha256(data: bytes) -> str:
    """Of some bytes."""
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_described_hashed_and_kept(tmp_path: Path, upper: Path) -> None:
    """All that the listing promises."""
    (upper / "opt").mkdir()
    file = upper / "opt/tool"
    file.write_bytes(b"tool")
    file.chmod(0o4755)
    os.utime(file, ns=(1, 1_700_000_000_000_000_123))
    taken = Taken(tmp_path, upper)
    entry = taken.entries["/opt/tool"]
    assert entry.change == "added"
    assert entry.sha256 == sha256(b"tool")
    assert entry.mode == 0o4755
    assert (entry.uid, entry.gid) == (os.getuid(), os.getgid())
    assert entry.mtime_ns == 1_700_000_000_000_000_123
    assert taken.content("/opt/tool") == b"tool"
    assert taken.entries["/opt"].kind == "directory"
    assert taken.part.result == "done"
    assert file.stat().st_atime_ns == 1  # looking at it left no trace


def test_added_changed_and_deleted_are_told_apart(tmp_path: Path, upper: Path) -> None:
    """By the layers below, whichever has the file; a whiteout in one hides those below it."""
    low, middle = tmp_path / "low", tmp_path / "middle"
    for layer in (low, middle):
        (layer / "etc").mkdir(parents=True)
    (low / "etc/passwd").write_text("old")
    (low / "etc/gone").write_text("old")
    (low / "etc/hidden").write_text("old")
    (upper / "etc").mkdir()
    for name in ("passwd", "new", "hidden"):
        (upper / "etc" / name).write_text("x")
    (upper / "etc/new-folder").mkdir()
    (upper / "etc/new-folder/file").write_text("x")
    whiteouts = os.geteuid() == 0
    if whiteouts:
        os.mknod(upper / "etc/gone", stat.S_IFCHR, os.makedev(0, 0))
        os.mknod(middle / "etc/hidden", stat.S_IFCHR, os.makedev(0, 0))
    taken = Taken(tmp_path, upper, lower=(middle, low))
    changes = {path: entry.change for path, entry in taken.entries.items()}
    expected = {
        "/etc": "changed",
        "/etc/passwd": "changed",
        "/etc/new": "added",
        "/etc/new-folder": "added",
        "/etc/new-folder/file": "added",
        "/etc/hidden": "added" if whiteouts else "changed",
    }
    assert changes == expected | ({"/etc/gone": "deleted"} if whiteouts else {})


def test_an_opaque_directory_hides_what_is_below(tmp_path: Path, upper: Path) -> None:
    """A directory that was removed and made again holds nothing of the image's."""
    low = tmp_path / "low"
    (low / "srv").mkdir(parents=True)
    (low / "srv/file").write_text("old")
    (upper / "srv").mkdir()
    (upper / "srv/file").write_text("new")
    os.setxattr(upper / "srv", "user.overlay.opaque", b"y")
    assert Taken(tmp_path, upper, lower=(low,)).entries["/srv/file"].change == "added"
    os.removexattr(upper / "srv", "user.overlay.opaque")
    assert Taken(tmp_path, upper, lower=(low,)).entries["/srv/file"].change == "changed"


def test_links_are_not_followed_and_special_files_not_opened(tmp_path: Path, upper: Path) -> None:
    """Neither a link to a host's file, nor a pipe that nobody writes to, nor a socket."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    (upper / "link").symlink_to(secret)
    (upper / "folder").symlink_to(tmp_path)
    (upper / "up").symlink_to("../secret")
    os.mkfifo(upper / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(upper / "socket"))
        started = time.monotonic()
        taken = Taken(tmp_path, upper)
    assert time.monotonic() - started < 5
    kinds = {path: entry.kind for path, entry in taken.entries.items()}
    assert kinds == {
        "/link": "symlink", "/folder": "symlink", "/up": "symlink", "/fifo": "fifo",
        "/socket": "socket",
    }  # fmt: skip
    assert taken.entries["/link"].target == str(secret)
    assert not taken.members
    assert b"of the host" not in taken.path.read_bytes()


def test_a_link_that_takes_the_place_of_a_directory_leads_nowhere(
    tmp_path: Path, upper: Path
) -> None:
    """What is swapped between listing and reading is not followed either."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of the host")
    (upper / "d").mkdir()
    (upper / "d/file").write_text("inside")
    part = Part("x")
    tree = Tree(Root(upper), "", "layer")
    entries = list(walk(tree, part, 100, Deadline(10)))
    (upper / "d/file").unlink()
    (upper / "d").rmdir()
    (upper / "d").symlink_to(outside)
    with io.FileIO(tmp_path / "p", "w+") as file:
        Contents(TarWriter(file, 1 << 20), lambda _: None, FileLimits(), Deadline(10)).take(
            [tree], entries, part
        )
    (entry,) = (entry for entry in entries if entry.kind == "file")
    assert not entry.sha256
    assert "not read" in entry.remark
    assert part.result == "partial"
    with pytest.raises(OSError, match="d/file"):
        tree.root.open("d/file")
    with pytest.raises(OSError, match=r"\.\."):
        tree.root.open("../outside/file")


def test_paths_inside_a_root_stay_inside(tmp_path: Path) -> None:
    """A container's /etc/passwd may be a link to anywhere; it is read as the container would."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "real").write_text("inside")
    (root / "etc/passwd").symlink_to("/real")
    (root / "etc/up").symlink_to("../../../../../../etc/hostname")
    os.mkfifo(root / "etc/fifo")
    inside = Root(root)
    assert inside.read_small("/etc/passwd", 100) == b"inside"
    for path in ("/etc/up", "/etc/fifo", "/none"):
        with pytest.raises(OSError, match=r"etc|none"):
            inside.read_small(path, 100)
    inside.close()


def test_huge_and_sparse_files_cost_what_the_limits_say(tmp_path: Path, upper: Path) -> None:
    """A file of a terabyte is hashed at its beginning, and the listing says how far."""
    with (upper / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (upper / "large").write_bytes(b"x" * 3000)
    (upper / "small").write_bytes(b"y" * 10)
    limits = FileLimits(hash_each=1 << 22, content_each=1000)
    started = time.monotonic()
    taken = Taken(tmp_path, upper, limits=limits)
    assert time.monotonic() - started < 10
    sparse = taken.entries["/sparse"]
    assert not sparse.sha256
    assert f"first {1 << 22} of {1 << 40} bytes: {sha256(bytes(1 << 22))}" in sparse.remark
    large = taken.entries["/large"]
    assert large.sha256 == sha256(b"x" * 3000)
    assert not large.member
    assert taken.content("/small") == b"y" * 10
    assert taken.part.result == "done"  # nothing went wrong …
    assert any("contents of 2 files" in line for line in taken.part.limits)  # … and it is said


def test_what_matters_is_kept_when_there_is_not_room_for_all(tmp_path: Path, upper: Path) -> None:
    """A heap of newer rubbish hides neither a program nor a changed account file."""
    (upper / "etc").mkdir()
    (upper / "etc/passwd").write_text("evil::0:0::/:/bin/sh")
    (upper / "miner").write_bytes(b"ELF")
    (upper / "miner").chmod(0o755)
    for file in (upper / "etc/passwd", upper / "miner"):
        os.utime(file, (1, 1))
    for number in range(50):
        (upper / f"rubbish{number}").write_text("x")
    taken = Taken(tmp_path, upper, limits=FileLimits(contents=2))
    kept = {path for path, entry in taken.entries.items() if entry.member}
    assert kept == {"/etc/passwd", "/miner"}
    assert all(entry.sha256 for entry in taken.entries.values() if entry.kind == "file")


def test_a_file_that_changes_while_it_is_read_is_said_to(
    tmp_path: Path, upper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash is of something that never was on the disk as a whole."""
    (upper / "log").write_bytes(b"x" * 100)
    real = os.read

    def read(fd: int, number: int) -> bytes:
        with (upper / "log").open("ab") as file:
            file.write(b"more")
        return real(fd, number)

    monkeypatch.setattr(os, "read", read)
    taken = Taken(tmp_path, upper, limits=FileLimits(content_each=1))
    assert taken.entries["/log"].remark == "was changed while it was read"
    assert taken.part.missing == ["files that were changed while they were read"]


def test_out_of_time_says_how_far_it_came(tmp_path: Path, upper: Path) -> None:
    """The listing ends, hashes end; neither is an error."""
    for number in range(10):
        (upper / str(number)).write_text("x")
    taken = Taken(tmp_path, upper, seconds=0)
    assert taken.part.result == "partial"
    assert "out of time after 0 changes" in taken.part.missing[0]
    part = Part("x")
    entry = Entry("/0", "added", "file", "layer")
    with io.FileIO(tmp_path / "p", "w+") as file:
        Contents(TarWriter(file, 1 << 20), lambda _: None, FileLimits(), Deadline(0)).take(
            [Tree(Root(upper), "", "layer")], [entry], part
        )
    assert part.missing == ["out of time: 1 of 1 files not hashed"]


def test_a_runtimes_word_is_looked_up_without_following_anything(
    upper: Path,
) -> None:
    """The way without an upper directory."""
    (upper / "file").write_text("x")
    (upper / "link").symlink_to("/etc/shadow")
    root = Root(upper)
    assert entry_of(root, "changed", "/file").size == 1
    assert entry_of(root, "added", "/link").target == "/etc/shadow"
    assert entry_of(root, "added", "/link/x").remark.startswith("not read")
    assert entry_of(root, "deleted", "/gone").kind == "nothing"
    root.close()


def test_names_of_any_bytes_are_listed(tmp_path: Path, upper: Path) -> None:
    """Names that are no UTF-8, and names with control characters."""
    name = os.fsdecode(b"\xff\x1b[2J\n")
    (upper / name).write_text("x")
    taken = Taken(tmp_path, upper)
    assert taken.content("/" + name) == b"x"


# ---- mounts --------------------------------------------------------------------------------------


def test_mounts_are_read_with_their_escapes(tmp_path: Path) -> None:
    """Spaces, and commas and colons within an overlay's directories."""
    for layer in ("one", "two:x"):
        (tmp_path / "layers" / layer).mkdir(parents=True)
    upper = tmp_path / "layers/top/fs"
    upper.mkdir(parents=True)
    one = tmp_path / "layers/one"
    (tmp_path / "mountinfo").write_text(
        f"30 1 0:50 / / rw,relatime - overlay overlay rw,lowerdir={one}:two\\134:x,"
        f"upperdir={upper},workdir=/w\n"
        "31 30 0:51 / /a\\040b ro - tmpfs tmpfs rw,size=1k\n"
        "32 31 0:52 / /a\\040b/c rw shared:1 master:2 - tmpfs tmpfs rw\n"
    )
    root, spaced, inner = read_mounts(tmp_path)
    assert root.option("upperdir") == str(upper)
    assert lower_directories(root, str(upper)) == [str(one), str(tmp_path / "layers/two:x")]
    assert spaced.target == "/a b"
    assert not spaced.writable
    assert inner.writable
    mounts = [root, spaced, inner]
    assert mount_of("/bin/sh", mounts) is root
    assert mount_of("/a b/x", mounts) is spaced
    assert mount_of("/a b/c/x", mounts) is inner
    assert mount_of("/a bc", mounts) is root


# ---- sockets -------------------------------------------------------------------------------------


def test_sockets_of_every_kind_are_found_with_their_ends() -> None:
    """Compared with what this process itself opened."""
    with (
        socket.socket() as listener,
        socket.socket() as client,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as unix,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        datagram.bind(("::1", 0))
        unix.bind(f"\0rote test {os.getpid()}")
        unix.listen()
        found, problems = read_sockets(Path("/proc/self/net"))
        by_inode = {row["inode"]: row for row in found}

        def row(of: socket.socket) -> dict[str, Any]:
            return by_inode[os.fstat(of.fileno()).st_ino]

        assert not problems
        host, port = listener.getsockname()
        assert row(listener)["local"] == f"{host}:{port}"
        assert row(listener)["state"] == "listen"
        assert row(client)["remote"] == f"{host}:{port}"
        assert row(client)["state"] == "established"
        assert row(datagram)["local"] == f"[::1]:{datagram.getsockname()[1]}"
        assert row(unix)["path"] == f"@rote test {os.getpid()}"
        assert (row(unix)["type"], row(unix)["state"]) == ("seqpacket", "listen")


def test_addresses_are_of_this_machines_byte_order() -> None:
    """Little endian here; the kernel prints words as it holds them."""
    assert sys.byteorder == "little"
    assert address("0100007F:0050") == "127.0.0.1:80"
    assert address("00000000000000000000000001000000:1F90") == "[::1]:8080"


def test_lines_of_another_form_are_counted_not_fatal(tmp_path: Path) -> None:
    """A kernel to come may print them differently."""
    (tmp_path / "tcp").write_text("header\n  0: nonsense\n")
    (tmp_path / "unix").write_text("header\n")
    assert read_sockets(tmp_path) == ([], ["tcp: a line of unknown form"])


# ---- secrets -------------------------------------------------------------------------------------

RANDOM = "q7Zp2LxV9mKt4RwB8nYc"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", True),
        ("LANG", "en_US.UTF-8", True),
        ("NGINX_VERSION", "1.25.3", True),
        ("HOSTNAME", "5cc596bd41d8", True),
        ("PWD", "/srv/application/releases", True),
        ("PGDATA", "/var/lib/postgresql/16/data", True),
        ("POSTGRES_PASSWORD_FILE", "/run/secrets/pg-password", True),
        ("TOKEN_TTL", "3600", True),
        ("JAVA_OPTS", "-Xmx512m -Dfile.encoding=UTF-8", True),
        ("DB_PASSWORD", "hunter2", False),
        ("PGPASS", "x", False),
        ("API_KEY", "abc", False),
        ("SECRET_KEY_BASE", "abc", False),
        ("GITHUB_TOKEN", "ghp_x", False),
        ("SESSION_COOKIE", "abc", False),
        ("SENTRY_DSN", "https://abc@sentry/1", False),
        ("SETTING", RANDOM, False),
        ("SETTING", "AKIA" + "ABCDEFGHIJKLMNOP", False),
    ],
)
def test_environments_keep_names_and_lose_secrets(name: str, value: str, kept: bool) -> None:
    """By name, and by what the value looks like."""
    found = Secrets().environment({name: value})
    assert found == {name: value if kept else "***"}


def test_urls_keep_all_but_the_password() -> None:
    """An analyst wants to know where it connects to."""
    found = Secrets().environment({"DATABASE_URL": "postgres://app:hunter2@db:5432/shop"})
    assert found["DATABASE_URL"] == "postgres://app:***@db:5432/shop"


def test_a_secret_of_the_environment_is_one_everywhere() -> None:
    """A shell may have put it into a command line under no name at all."""
    secrets = Secrets()
    secrets.environment({"DB_PASSWORD": "hunter2hunter2"})
    assert secrets.argv(["psql", "app", "hunter2hunter2"]) == ["psql", "app", "***"]
    assert secrets.text("connected with hunter2hunter2!") == "connected with ***!"


def test_inspections_lose_secrets_wherever_they_stand() -> None:
    """In environments, labels, command lines and the output of health checks."""
    details = {
        "State": {"Health": {"Log": [{"Output": "login hunter2hunter2 refused"}]}},
        "Args": ["--token", "abc", "hunter2hunter2"],
        "Config": {
            "Env": ["DB_PASSWORD=hunter2hunter2", "MODE=fast", "EMPTY"],
            "Labels": {"api.token": "abc", "team": "shop"},
            "Cmd": None,
        },
        "Number": 3,
    }
    secrets = Secrets()
    secrets.learn(details)
    found = secrets.inspection(details)
    assert "hunter2" not in str(found)
    assert found["Args"] == ["--token", "***", "***"]
    assert found["Config"]["Env"] == ["DB_PASSWORD=***", "MODE=fast", "EMPTY"]
    assert found["Config"]["Labels"] == {"api.token": "***", "team": "shop"}
    assert found["Number"] == 3


def test_an_inspection_of_any_depth_ends() -> None:
    """Whoever nests deeply enough loses what is below, not the pack."""
    deep: Any = "secret"
    for _ in range(2000):
        deep = {"x": deep}
    assert "***" in str(Secrets().inspection(deep))


# ---- processes -----------------------------------------------------------------------------------


class Read:
    """What was read of some processes."""

    def __init__(self, place: Path, pids: list[int]) -> None:
        self.part = Part("processes")
        self.members: list[Member] = []
        path = place / "p.tar"
        with io.FileIO(path, "w+") as file:
            writer = TarWriter(file, 64 << 20)
            reader = Processes(Secrets(), writer, self.members.append, self.part, Deadline(30))
            self.environments = reader.environments(pids)
            self.rows = reader.read(pids)
            writer.finish()
        with tarfile.open(path) as archive:
            self.contents = {
                info.name: source.read()
                for info in archive
                if (source := archive.extractfile(info))
            }


@pytest.fixture
def child(tmp_path: Path) -> Any:
    """A process with an environment, a memfd and a deleted file open; ended afterwards."""
    program = (
        "import os, sys, time\n"
        "fd = os.memfd_create('hidden'); os.write(fd, b'in memory')\n"
        "gone = open('gone', 'wb', 0); gone.write(b'deleted'); os.unlink('gone')\n"
        "kept = open('kept', 'ab', 0); kept.write(b'12345')\n"
        "print('ready', flush=True); time.sleep(100)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--password", "hunter2hunter2"],
        cwd=tmp_path,
        env={"TOKEN": "abcdefghij", "MODE": "fast"},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.wait(10)
    process.stdout.close()


def test_a_process_is_described(tmp_path: Path, child: Any) -> None:
    """Program, arguments, user, files with positions, and what has no name any more."""
    read = Read(tmp_path, [child.pid])
    (row,) = read.rows
    assert row["pid"] == child.pid
    assert row["parent"] == os.getpid()
    assert row["pids"][0] == child.pid
    assert row["argv"][-2:] == ["--password", "***"]
    program = Path(f"/proc/{child.pid}/exe").read_bytes()
    assert row["program"]["sha256"] == sha256(program)
    assert row["cwd"] == str(tmp_path)
    assert row["uids"][0] == os.getuid()
    assert abs(row["started"] - time.time()) < 60
    files = {Path(file["target"]).name: file for file in row["files"]}
    assert files["kept"]["position"] == 5
    assert set(files["kept"]["flags"]) >= {"write", "append"}
    assert read.contents[files["memfd:hidden (deleted)"]["member"]] == b"in memory"
    assert read.contents[files["gone (deleted)"]["member"]] == b"deleted"
    assert read.environments == [
        {"pid": child.pid, "environment": {"TOKEN": "***", "MODE": "fast"}}
    ]
    assert read.part.result == "done"


def test_processes_that_end_meanwhile_are_counted(tmp_path: Path, child: Any) -> None:
    """One that is there is read; the others are said to be gone."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(10)
    read = Read(tmp_path, [ended.pid, child.pid])
    assert [row["pid"] for row in read.rows] == [child.pid]
    assert read.part.result == "partial"
    assert "1 of 2 processes ended while they were read" in read.part.missing


def test_a_zombie_is_no_reason_to_fail(tmp_path: Path) -> None:
    """It has no program, no arguments and no files."""
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.DEVNULL)
    try:
        status = Path(f"/proc/{zombie.pid}/status")
        deadline = time.monotonic() + 10
        while "zombie" not in status.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        (row,) = Read(tmp_path, [zombie.pid]).rows
        assert row["state"].startswith("Z")
        assert row["argv"] == []
    finally:
        zombie.wait(10)


# ---- the worker ----------------------------------------------------------------------------------


def run_worker(place: Path, request: Request) -> tuple[dict[str, Part], dict[str, bytes]]:
    """What a worker says of its parts, and what it wrote."""
    said: list[dict[str, Any]] = []
    path = place / "w.tar"
    with io.FileIO(path, "w+") as file:
        writer = TarWriter(file, request.limit)
        Worker(request, writer, said.append).run()
        writer.finish()
    parts = {row["part"]["name"]: Part(**row["part"]) for row in said if "part" in row}
    with tarfile.open(path) as archive:
        contents = {
            info.name: source.read() for info in archive if (source := archive.extractfile(info))
        }
    assert sorted(row["member"]["name"] for row in said if "member" in row) == sorted(contents)
    return parts, contents


def test_every_part_stands_alone(tmp_path: Path, upper: Path, child: Any) -> None:
    """With processes and no file system, and with a file system and no processes."""
    (upper / "x").write_text("x")
    parts, contents = run_worker(
        tmp_path, Request(1 << 26, 30, [child.pid], [], child.pid, host_mounts=True)
    )
    assert parts["processes"].result == "done"
    assert parts["sockets"].result == "done"
    assert parts["mounts"].result == "done"
    assert parts["cgroup"].result == "failed"
    assert parts["file system"].result == "failed"
    assert b"hunter2" not in b"".join(contents.values())

    parts, contents = run_worker(tmp_path, Request(1 << 26, 30, [], [], upper="/none"))
    assert parts["file system"].result == "partial"
    assert "/none: No such file" in parts["file system"].missing[0]
    assert contents["changes.jsonl"] == b""

    parts, contents = run_worker(tmp_path, Request(1 << 26, 30, [], [], upper=str(upper)))
    assert parts["processes"].missing == ["the container has no processes"]
    assert parts["file system"].result == "done"
    (line,) = contents["changes.jsonl"].splitlines()
    assert orjson.loads(line)["sha256"] == sha256(b"x")


def test_a_host_namespace_is_not_listed_as_a_containers(tmp_path: Path, child: Any) -> None:
    """Plain cgroups share the host's files and network: those are not the container's."""
    parts, contents = run_worker(
        tmp_path, Request(1 << 26, 30, [child.pid], [], child.pid, host_mounts=True)
    )
    assert parts["file system"].result == "failed"
    rows = [orjson.loads(line) for line in contents["sockets.jsonl"].splitlines()]
    assert all(row["holders"] for row in rows)


def test_the_list_of_changes_is_worth_more_than_contents(tmp_path: Path, upper: Path) -> None:
    """A pack that is too small for contents still has the whole list."""
    for number in range(100):
        (upper / f"f{number}").write_bytes(os.urandom(2000))
    parts, contents = run_worker(tmp_path, Request(120_000, 30, [], [], upper=str(upper)))
    rows = [orjson.loads(line) for line in contents["changes.jsonl"].splitlines()]
    assert len(rows) == 100
    assert all(row["sha256"] for row in rows)
    kept = [row for row in rows if "member" in row]
    assert 0 < len(kept) < 100
    assert {row["member"] for row in kept} == {name for name in contents if "files/" in name}
    assert parts["file system"].limits


@pytest.mark.slow
def test_twenty_thousand_files_are_listed_hashed_and_bounded(tmp_path: Path, upper: Path) -> None:
    """All of them in the list with their hashes, within seconds, in a pack of some megabytes."""
    number = 20_000
    for folder in range(20):
        (upper / str(folder)).mkdir()
        for file in range(number // 20):
            (upper / str(folder) / str(file)).write_text(str(file))
    started = time.monotonic()
    parts, contents = run_worker(tmp_path, Request(256 << 20, 100, [], [], upper=str(upper)))
    seconds = time.monotonic() - started
    lines = contents["changes.jsonl"]
    assert parts["file system"].counts["hashed"] == number
    assert lines.count(b'"sha256"') == number
    assert len(lines) < number * 400
    assert len(gzip.compress(lines, 1)) < len(lines)
    assert seconds < 60


def test_reading_never_waits_for_a_lease(tmp_path: Path, upper: Path) -> None:
    """A container may hold one on its files; a frozen one would never let go."""
    (upper / "leased").write_text("x")
    with (upper / "leased").open("rb+") as holder:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        started = time.monotonic()
        done: list[Taken] = []
        # Opening what is leased is told to the holder, this very process, by a signal.
        previous = signal.signal(signal.SIGIO, signal.SIG_IGN)
        thread = threading.Thread(target=lambda: done.append(Taken(tmp_path, upper)))
        thread.start()
        thread.join(20)
        assert done
        assert time.monotonic() - started < 10
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        signal.signal(signal.SIGIO, previous)
    assert done[0].entries["/leased"].remark == "not read: Resource temporarily unavailable"
    assert done[0].part.result == "partial"
