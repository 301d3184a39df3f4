"""What holds for every test: none is skipped; what one needs and lacks is said."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sensor.kernel.live import LiveKernel
from tests.live import KernelTestSettings

TESTS = Path(__file__).parent
NEED_ROOT = {"kernel", "docker", "evasion"}

# Machines that run this may be slow and shared; how long one example takes says nothing.
settings.register_profile(
    "rote", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("rote")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder they are in."""
    for item in items:
        if (folder := _folder(item)) in NEED_ROOT:
            item.add_marker(getattr(pytest.mark, "docker" if folder == "docker" else "kernel"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail, never skip, where a test cannot do its work."""
    if _folder(item) not in NEED_ROOT:
        return
    if os.geteuid() != 0:
        pytest.fail("loads BPF programs: run as root, with sudo scripts/test", pytrace=False)
    if not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.fail(
            "/sys/kernel/btf/vmlinux: not there; this kernel was built without BTF "
            "(CONFIG_DEBUG_INFO_BTF), and Rote cannot read its types",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one: what did not run was not tested."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped; tests of Rote fail instead: {report.longrepr}"
        )
    return report


@pytest.fixture(scope="session")
def kernel_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelTestSettings]:
    """Settings of the kernel side that all tests of a session share."""
    bpf_dir = Path(f"/sys/fs/bpf/rote-test-{os.getpid()}")
    yield KernelTestSettings(bpf_dir, tmp_path_factory.mktemp("run"))
    LiveKernel.unload(bpf_dir)


@pytest.fixture(scope="session")
def shared_kernel(kernel_settings: KernelTestSettings) -> Iterator[LiveKernel]:
    """The kernel side, loaded once."""
    kernel = LiveKernel.open(kernel_settings)
    yield kernel
    kernel.close()


def _folder(item: pytest.Item) -> str:
    try:
        return item.path.relative_to(TESTS).parts[0]
    except ValueError:
        return ""
