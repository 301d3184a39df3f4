"""Real services under load: what one container taught, a fresh one does without an audit."""

from __future__ import annotations

from typing import Any

import pytest

from tests.docker.client import Docker
from tests.docker.load import put_under_load
from tests.docker.sensor import Rote
from tests.services.common import BASIC
from tests.services.recipe import Service


def in_short(audits: list[dict[str, Any]]) -> list[str]:
    """Audits as a failing test should show them."""
    return [
        f"{a['type']}: {a['parents'][:1]} {a['program']} {a['operation']} {a['path']} {a['path2']}"
        for a in audits
    ]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("service_images")
@pytest.mark.parametrize("service", BASIC, ids=lambda service: service.name)
def test_a_second_container_of_a_learned_service_causes_no_audit(
    docker: Docker, rote: Rote, service: Service
) -> None:
    """Start, load and stop of a fresh container are all known; somebody who enters is not."""
    image = service.recipe.reference
    rote.start()

    first = docker.run(image, options=service.recipe.options)
    rote.wait_for(lambda: rote.watches(first.id), seconds=10, what="the first container")
    put_under_load(docker, first, service.learn)
    first.stop()
    rote.wait_for(lambda: not rote.watches(first.id), seconds=20, what="its end")
    rote("models", "activate", image)

    second = docker.run(image, options=service.recipe.options)
    rote.wait_for(lambda: rote.watches(second.id), seconds=10, what="the second container")
    put_under_load(docker, second, service.learn)
    watched = rote.wait_for(
        lambda: [r for r in rote.containers() if r["id"] == second.id and r["known"] > 0],
        seconds=5,
        what="the kernel to have answered something by itself",
    )
    assert [(r["model_state"], r["complete"], r["lost"]) for r in watched] == [("active", True, 0)]
    assert in_short(rote.audits("--container", second.id)) == []

    second.exec("ls", "/")
    rote.wait_for(
        lambda: rote.audits("--container", second.id, "--type", "exec_session"),
        seconds=5,
        what="an audit of the session, which shows that the silence before meant something",
    )
    session = {audit["id"] for audit in rote.audits("--container", second.id)}
    second.stop()
    rote.wait_for(lambda: not rote.watches(second.id), seconds=20, what="its end")
    after = [a for a in rote.audits("--container", second.id) if a["id"] not in session]
    assert in_short(after) == []
