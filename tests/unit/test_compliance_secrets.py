"""Secrets are found where they are, and are in nothing that is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.images.compliance.judge import evaluate
from sensor.images.compliance.secrets import secret_names, secret_steps
from sensor.images.compliance.subject import Subject

JWT = "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "entry",
    [
        "MYSQL_ROOT_PASSWORD=hunter2", "PGPASSWORD=x", "db_pass=x", "API_KEY=1234", "apiToken=x",
        "AWS_SECRET_ACCESS_KEY=x", "CLIENT_SECRET=x", "PASSWORD2=x", "GIT_CREDENTIALS=x",
        f"COOKIE={JWT}", "X=AKIAIOSFODNN7EXAMPLE", "X=ghp_" + "a" * 36, "X=xoxb-1234567890-abc",
        "DATABASE_URL=postgres://app:s3cret@db/app", "X=-----BEGIN EC PRIVATE KEY-----",
        "X=glpat-" + "a" * 20,
    ],
)  # fmt: skip
def test_a_secret(entry: str) -> None:
    """By its name, or by its look under any name."""
    (found,) = secret_names([entry])
    assert found.startswith(entry.partition("=")[0] + " (")


@pytest.mark.parametrize(
    "entry",
    [
        "PATH=/usr/bin", "PWD=/root", "DB_PASSWORD_FILE=/run/secrets/x", "DB_PASSWORD=",
        "DB_PASSWORD=/run/secrets/x", "MYSQL_RANDOM_ROOT_PASSWORD=yes", "TOKEN=${TOKEN}",
        "SECRET=$SECRET", "PASSWORD=***", "KEY=value", "COMPASS=north", "PASSWORD_LENGTH=12",
        "URL=https://example.org/a:b", "URL=postgres://app:$PASS@db", "TOKEN_URL=x", "novalue", "",
        "GPG_KEY=E3FF2839C048B25C084DEBE9B26995E310250568",
    ],
)  # fmt: skip
def test_no_secret(entry: str) -> None:
    """Places, references, switches and what only sounds like one."""
    assert secret_names([entry]) == []


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("RUN curl -u x https://u:pw123@host/x", "RUN curl -u x https://u:***@host/x (a URL"),
        ("ENV API_TOKEN=abc OTHER=1", "ENV API_TOKEN=*** OTHER=1 (by its name)"),
        ("RUN export DB_PASSWORD='a b'; make", "RUN export DB_PASSWORD=***; make (by its name)"),
        ("ARG TOKEN", ""),
        ("RUN apt-get update", ""),
    ],
)
def test_steps_of_a_history(step: str, told: str) -> None:
    """Shown without the secret."""
    found = secret_steps([step])
    if not told:
        assert found == []
        return
    assert found[0].startswith(told)
    assert "pw123" not in found[0]


@given(st.from_regex(r"[A-Za-z0-9]{12,30}", fullmatch=True))
def test_no_value_is_ever_told(value: str) -> None:
    """Whatever it is, wherever it stands."""
    value = "zq" + value
    lines = [f"DB_PASSWORD={value}", f"X=postgres://u:{value}@h/", f"A_TOKEN='{value}'"]
    subject = Subject(
        inspected={"HostConfig": {}, "Config": {"Env": lines}},
        spec={"process": {"env": lines}},
        image={
            "Config": {"Env": lines},
            "History": [{"CreatedBy": f"RUN {line} make"} for line in lines]
            + [{"CreatedBy": f"ADD https://u:{value}@h/x /"}, {"CreatedBy": "first"}],
        },
    )
    results = evaluate(subject)
    assert value not in json.dumps([result.to_json() for result in results])
    failed = {result.check.id for result in results if result.status == "fail"}
    assert {"424", "597", "4.10", "4.9"} <= failed
