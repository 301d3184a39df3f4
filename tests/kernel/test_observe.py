"""What happens in a watched cgroup comes out as the right events."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sensor.events import Event, EventFlag, EventKind, Operation, Origin, WalkEnd
from tests.kernel.conftest import Cgroup

Read = Callable[[], list[Event]]


def executions(found: list[Event]) -> list[tuple[str, str]]:
    """(caller, program) of every execution, in order."""
    return [(e.program, e.path) for e in found if e.kind is EventKind.EXEC]


def changes(found: list[Event], operation: Operation) -> list[str]:
    """Paths changed by one operation, in order."""
    return [e.path for e in found if e.kind is EventKind.FILE and e.operation is operation]


def real(program: str) -> str:
    """A program's path as the kernel walks it: without symbolic links."""
    return os.path.realpath(shutil.which(program) or program)


def test_execution_carries_who_and_what(cgroup: Cgroup, events: Read) -> None:
    """An exec names caller, program, arguments, directory, ids and parent."""
    cgroup.run("/bin/sh", "-c", "cd /usr; ls --color=never . >/dev/null; true")
    found = [e for e in events() if e.kind is EventKind.EXEC and e.path == real("ls")]
    assert len(found) == 1
    event = found[0]
    assert event.program == real("sh")
    assert event.argv == ("ls", "--color=never", ".")
    assert event.cwd == "/usr"
    assert (event.uid, event.gid) == (0, 0)
    assert event.pid == event.tid
    assert event.parent_pid > 0
    assert event.walk_end is WalkEnd.ROOT
    assert event.cgroup_id == cgroup.id
    assert event.flags & EventFlag.PENDING


def test_script_counts_as_itself_and_its_interpreter(
    cgroup: Cgroup, events: Read, tmp_path: Path
) -> None:
    """A script, named absolutely or relatively, is two executions."""
    script = tmp_path / "hello.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    script.chmod(0o755)
    for name in (str(script), "./hello.sh"):
        cgroup.run("/usr/bin/env", name, cwd=tmp_path)
        found = [e for e in events() if e.program == real("env") and e.kind is EventKind.EXEC]
        assert [(e.operation, e.path) for e in found] == [
            (Operation.SCRIPT, str(script)),
            (Operation.EXEC, real("sh")),
        ]


def test_memory_and_deleted_programs(cgroup: Cgroup, events: Read) -> None:
    """What has no file is told from what has one."""
    cgroup.python(
        "import os\n"
        "fd = os.memfd_create('usr/bin/ls')\n"
        "os.write(fd, open('/bin/true', 'rb').read())\n"
        "if os.fork() == 0: os.execve(fd, ['ls'], {})\n"
        "os.wait()"
    )
    found = [e for e in events() if e.kind is EventKind.EXEC][-1]
    assert found.origin is Origin.MEMORY
    assert found.walk_end is not WalkEnd.ROOT
    assert found.flags & EventFlag.DELETED


@pytest.mark.parametrize(
    ("code", "operation", "expected"),
    [
        ("open(d+'/a','w')", Operation.CREATE, "/a"),
        ("open(d+'/old','a')", Operation.OPEN_WRITE, "/old"),
        ("os.open(d+'/old',os.O_RDONLY|os.O_TRUNC)", Operation.OPEN_WRITE, "/old"),
        ("os.truncate(d+'/old',1)", Operation.TRUNCATE, "/old"),
        ("os.unlink(d+'/old')", Operation.UNLINK, "/old"),
        ("os.mkdir(d+'/dir')", Operation.MKDIR, "/dir"),
        ("os.rmdir(d+'/empty')", Operation.RMDIR, "/empty"),
        ("os.symlink('x',d+'/sym')", Operation.SYMLINK, "/sym"),
        ("os.mkfifo(d+'/fifo')", Operation.MKNOD, "/fifo"),
        ("os.chmod(d+'/old',0o600)", Operation.CHMOD, "/old"),
        ("os.chown(d+'/old',1,1)", Operation.CHOWN, "/old"),
        ("os.fchmod(os.open(d+'/old',os.O_RDONLY),0o600)", Operation.CHMOD, "/old"),
        ("os.setxattr(d+'/old','user.x',b'y')", Operation.SETXATTR, "/old"),
        ("s=socket.socket(socket.AF_UNIX);s.bind(d+'/sock')", Operation.MKNOD, "/sock"),
        ("os.unlink('old',dir_fd=os.open(d,os.O_RDONLY))", Operation.UNLINK, "/old"),
        ("os.chdir(d);os.unlink('empty/../old')", Operation.UNLINK, "/old"),
    ],
)
def test_each_change_is_seen(
    cgroup: Cgroup, events: Read, code: str, operation: Operation, expected: str
) -> None:
    """Every way to change a file system object is one event with its path."""
    directory = Path("/var/tmp") / f"rote-{os.getpid()}-{abs(hash(code))}"
    directory.mkdir()
    try:
        (directory / "old").write_text("content")
        (directory / "empty").mkdir()
        cgroup.python(f"import os,socket,sys\nd=sys.argv[1]\n{code}", directory)
        found = changes(events(), operation)
        assert str(directory) + expected in found, cgroup.kernel.attachment
    finally:
        shutil.rmtree(directory)


def test_rename_and_link_carry_both_names(cgroup: Cgroup, events: Read, tmp_path: Path) -> None:
    """A rename and a link name the old and the new path."""
    (tmp_path / "a").write_text("x")
    cgroup.python(
        "import os,sys\nd=sys.argv[1]\nos.rename(d+'/a',d+'/b')\nos.link(d+'/b',d+'/c')", tmp_path
    )
    found = {e.operation: (e.path, e.path2) for e in events() if e.path2}
    assert found[Operation.RENAME] == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert found[Operation.LINK] == (f"{tmp_path}/b", f"{tmp_path}/c")


def test_write_through_inherited_descriptor(cgroup: Cgroup, events: Read, tmp_path: Path) -> None:
    """A file that was opened outside is judged at its first write, once."""
    target = tmp_path / "log"
    with target.open("w") as log:
        subprocess.run(
            ["/bin/sh", "-c", "echo one; echo two"],
            preexec_fn=cgroup.enter,
            stdout=log,
            timeout=60,
            check=True,
        )
    assert changes(events(), Operation.WRITE).count(str(target)) == 1


def test_shared_mapping_of_received_file(cgroup: Cgroup, events: Read, tmp_path: Path) -> None:
    """A shared writable mapping counts as a write when the open was not seen."""
    target = tmp_path / "mapped"
    target.write_bytes(bytes(4096))
    fd = os.open(target, os.O_RDWR)
    os.set_inheritable(fd, True)
    try:
        subprocess.run(
            ["/usr/bin/python3", "-S", "-c", f"import mmap;mmap.mmap({fd},4096)[0]=65"],
            preexec_fn=cgroup.enter,
            pass_fds=[fd],
            timeout=60,
            check=True,
        )
    finally:
        os.close(fd)
    assert str(target) in changes(events(), Operation.MAP_WRITE)


def test_sinks_and_pipes_are_silent(cgroup: Cgroup, events: Read) -> None:
    """/dev/null, pipes and sockets are no objects of a model."""
    cgroup.run("/bin/sh", "-c", "echo x >/dev/null; echo y | cat >/dev/null")
    found = [e.path for e in events() if e.kind is EventKind.FILE]
    assert [path for path in found if "cgroup.procs" not in path] == []


def test_long_paths_are_whole_or_marked(cgroup: Cgroup, events: Read, tmp_path: Path) -> None:
    """Forty long components come whole; more than the walk follows are marked and counted."""
    names = [f"{i:02d}" + "x" * 60 for i in range(70)]
    cgroup.python(
        "import os,sys\n"
        "os.chdir(sys.argv[1])\n"
        "for i, n in enumerate(sys.argv[2:]):\n"
        "    os.mkdir(n); os.chdir(n)\n"
        "    if i in (39, 69): open('f', 'w').close()\n",
        tmp_path,
        *names,
    )
    created = [e for e in events() if e.operation is Operation.CREATE]
    assert created[0].path == "/".join([str(tmp_path), *names[:40], "f"])
    assert not created[0].flags & EventFlag.PATH_TRUNCATED
    assert created[1].flags & EventFlag.PATH_TRUNCATED
    assert cgroup.kernel.counters()[cgroup.id].truncated >= 1


def test_odd_names_survive(cgroup: Cgroup, events: Read, tmp_path: Path) -> None:
    """Newlines, escapes and bytes that are no UTF-8 come through unchanged."""
    name = b"a\n\x1b[31m\xff\xfe "
    cgroup.python(
        "import os,sys\nopen(os.fsencode(sys.argv[1])+b'/'+bytes.fromhex(sys.argv[2]),'w')",
        tmp_path,
        name.hex(),
    )
    assert changes(events(), Operation.CREATE) == [str(tmp_path) + "/" + os.fsdecode(name)]


def test_threads_and_forks_belong_to_the_service(
    cgroup: Cgroup, events: Read, tmp_path: Path
) -> None:
    """A write by a thread of a grandchild is seen, with its own thread id."""
    cgroup.python(
        "import os,sys,threading\n"
        "if os.fork() == 0:\n"
        "    t = threading.Thread(target=lambda: open(sys.argv[1] + '/t', 'w'))\n"
        "    t.start(); t.join(); os._exit(0)\n"
        "os.wait()",
        tmp_path,
    )
    found = [e for e in events() if e.operation is Operation.CREATE]
    assert [e.path for e in found] == [f"{tmp_path}/t"]
    assert found[0].tid != found[0].pid


def test_setuid_program_is_marked(cgroup: Cgroup, events: Read, tmp_path: Path) -> None:
    """A program that raises privileges carries the remark."""
    program = tmp_path / "raise"
    shutil.copy("/bin/true", program)
    program.chmod(0o755 | stat.S_ISUID)
    cgroup.run(program)
    found = [e for e in events() if e.path == str(program) and e.kind is EventKind.EXEC]
    assert found[0].flags & EventFlag.SETUID


@pytest.mark.usefixtures("cgroup")
def test_outside_is_not_seen(events: Read, tmp_path: Path) -> None:
    """What runs beside the cgroup makes no event."""
    subprocess.run(["/bin/sh", "-c", f"echo x > {tmp_path}/f; /bin/true"], check=True, timeout=60)
    assert events() == []


def test_code_mapped_from_memory_is_an_execution(cgroup: Cgroup, events: Read) -> None:
    """Mapping code that the image did not bring is seen, and names who did it."""
    cgroup.python(
        "import mmap,os\n"
        "fd = os.memfd_create('code')\n"
        "os.write(fd, bytes(4096))\n"
        "mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)"
    )
    found = [e for e in events() if e.operation is Operation.MAP_EXEC]
    assert [(e.kind, e.origin) for e in found] == [(EventKind.EXEC, Origin.MEMORY)]
    assert found[0].program == os.path.realpath(sys.executable)
