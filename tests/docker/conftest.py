"""Fixtures for tests with real containers."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.docker import images
from tests.docker.client import Docker
from tests.docker.engine import EngineError, PrivateEngine, running_engine
from tests.docker.sensor import Rote


@pytest.fixture(scope="session")
def docker_host(request: pytest.FixtureRequest) -> Generator[str]:
    """URL of a Docker Engine: the one that answers, else one that lives as long as the tests."""
    url = running_engine()
    if url is not None:
        yield url
        return
    engine = PrivateEngine()
    try:
        try:
            engine.start()
        except EngineError as error:
            pytest.exit(f"no Docker Engine for the tests: {error}", returncode=1)
        yield engine.url
    finally:
        engine.stop(keep_logs=request.session.testsfailed > 0)


@pytest.fixture(scope="session")
def _engine_client(docker_host: str) -> Generator[Docker]:
    client = Docker(docker_host)
    yield client
    images.remove_all(client)


@pytest.fixture
def docker(_engine_client: Docker) -> Generator[Docker]:
    """The docker command. Containers that a test starts end with it."""
    yield _engine_client
    _engine_client.clean()


@pytest.fixture(scope="session")
def busybox_image(_engine_client: Docker) -> str:
    """Name of an image of busybox and nothing else."""
    return images.import_busybox(_engine_client)


@pytest.fixture(scope="session")
def service_images(_engine_client: Docker) -> None:
    """The images of ``tests.services.common.BASIC``, from the distribution's packages."""
    images.import_services(_engine_client)


@pytest.fixture
def rote(docker_host: str) -> Generator[Rote]:
    """A private daemon that follows the tests' Docker Engine; not started yet."""
    sensor = Rote("sensor", ("--runtime", f"docker={docker_host}"))
    yield sensor
    sensor.remove()
