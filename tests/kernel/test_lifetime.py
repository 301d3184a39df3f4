"""Pins: a second daemon takes them over, another configuration replaces them, unload ends them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.errors import KernelSupportError
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import ContainerFlag, Edge, LabelKind
from tests.live import KernelTestSettings, cgroup_root

_PLAIN = ContainerFlag.HOST_MOUNTS | ContainerFlag.NO_SESSIONS | ContainerFlag.WATCHED


@pytest.fixture
def own(tmp_path: Path) -> Iterator[KernelTestSettings]:
    """Settings of a kernel side of this test's own."""
    settings = KernelTestSettings(Path(f"/sys/fs/bpf/rote-own-{os.getpid()}"), tmp_path)
    yield settings
    LiveKernel.unload(settings.bpf_dir)


def test_restart_takes_over_and_nothing_between_is_missed(own: KernelTestSettings) -> None:
    """What happens while no daemon runs waits in the ring for the next one."""
    first = LiveKernel.open(own)
    assert not first.attachment.reused
    path = cgroup_root() / f"rote-own-{os.getpid()}"
    path.mkdir()
    try:
        first.watch(path.stat().st_ino, model=0, flags=_PLAIN)
        first.put_edges([Edge(1, LabelKind.EXACT, b"usr", 16)])
        first.close()

        def enter() -> None:
            (path / "cgroup.procs").write_text(str(os.getpid()))

        subprocess.run(["/bin/true"], preexec_fn=enter, check=True, timeout=60)
        second = LiveKernel.open(own)
        try:
            assert second.attachment.reused
            assert any(e.path.endswith("/true") for e in second.read_events())
            assert [edge.label for edge in second.edges()] == [b"usr"]
        finally:
            second.close()
    finally:
        path.rmdir()


def test_other_settings_replace_what_was_pinned(own: KernelTestSettings) -> None:
    """Another ring size is another set of programs; the old set goes once the new one works."""
    LiveKernel.open(own).close()
    before = {path.name for path in own.bpf_dir.iterdir()}
    second = LiveKernel.open(replace(own, ring_size=2 << 20))
    both = {path.name for path in own.bpf_dir.iterdir()}
    assert before < both
    assert second.retire()
    second.close()
    after = {path.name for path in own.bpf_dir.iterdir()}
    assert len(after) == 1
    assert before.isdisjoint(after)


def test_unload_removes_everything(own: KernelTestSettings) -> None:
    """After unload nothing of Rote is left in the BPF file system."""
    LiveKernel.open(own).close()
    removed = LiveKernel.unload(own.bpf_dir)
    assert any("links/sched_process_exec" in item for item in removed)
    assert not own.bpf_dir.exists()


def test_half_removed_pins_are_built_again(own: KernelTestSettings) -> None:
    """When somebody removed a link, the set is not trusted."""
    LiveKernel.open(own).close()
    link = next(own.bpf_dir.glob("*/links/cgroup_mkdir"))
    link.unlink()
    again = LiveKernel.open(own)
    assert not again.attachment.reused
    assert "cgroup_mkdir" in again.attachment.hooks
    again.close()


def test_no_bpf_file_system_is_one_clear_line(own: KernelTestSettings, tmp_path: Path) -> None:
    """A place that is no BPF file system is named with the remedy."""
    with pytest.raises(KernelSupportError, match="mount -t bpf"):
        LiveKernel.open(replace(own, bpf_dir=tmp_path / "pins"))


def test_refused_attachment_is_one_clear_line(own: KernelTestSettings) -> None:
    """Forcing an attachment that the kernel refuses says which and why."""
    from sensor.kernel.probe import trampolines_refused

    reason = trampolines_refused()
    if reason is None:
        kernel = LiveKernel.open(replace(own, attach="fmod-ret"))
        assert kernel.attachment.mode == "fmod-ret"
        kernel.close()
    else:
        with pytest.raises(KernelSupportError, match=r"fmod-ret: .*trampoline"):
            LiveKernel.open(replace(own, attach="fmod-ret"))
