"""What a process does is learned under the program that it is by then, not one that it was."""

from __future__ import annotations

from tests.docker.client import Docker
from tests.docker.sensor import Rote

# Each line executes program after program in one process, all of them new to the model, and
# changes a file at once at the end: faster than user space answers for the first of them.
CHAINS = {
    "touch": "/bin/setsid /bin/env /bin/linux64 /bin/touch /var/touched",
    "mkdir": "/bin/env /bin/setsid /bin/taskset 1 /bin/mkdir /var/made",
    "cp": "/bin/linux64 /bin/env /bin/setsid /bin/cp /etc/passwd /var/copied",
    "ln": "/bin/taskset 1 /bin/env /bin/linux64 /bin/ln -s /etc/passwd /var/linked",
    "tee": "/bin/setsid /bin/taskset 1 /bin/env /bin/tee /var/teed",
    "truncate": "/bin/env /bin/taskset 1 /bin/setsid /bin/truncate -s 1 /var/cut",
    "mkfifo": "/bin/setsid /bin/linux64 /bin/env /bin/mkfifo /var/pipe",
    "dd": "/bin/linux64 /bin/taskset 1 /bin/env /bin/dd of=/var/written",
}


def test_writes_are_learned_under_the_program_that_made_them(
    docker: Docker, rote: Rote, busybox_image: str
) -> None:
    """A chain of execs leaves its write with the last program, however fast it was."""
    rote.start()
    script = "\n".join(f"({chain}) </etc/passwd" for chain in CHAINS.values())
    container = docker.run(busybox_image, "sh", "-ec", script)
    assert docker("wait", container.id) == "0", container.logs()
    rote.wait_for(lambda: not rote.watches(container.id), seconds=20, what="its end")

    keys = rote.json("models", "show", busybox_image)["keys"]
    writers = {
        key["program"].rpartition("#")[2]
        for key in keys
        if key["kind"] == "write" and key["pattern"].startswith("/var/")
    }
    assert writers == set(CHAINS)
