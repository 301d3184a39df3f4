"""A Python web application that writes .pyc files, uploads, temporary files and a rotated log."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

_APP = """\
import importlib
import logging
import logging.handlers
import tempfile
import uuid

from flask import Flask, request

app = Flask(__name__)
handler = logging.handlers.RotatingFileHandler('/app/log/app.log', maxBytes=20000, backupCount=3)
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)


@app.get('/')
def index():
    logging.info('index %s', request.args)
    return 'hello'


@app.get('/report/<name>')
def report(name):
    return importlib.import_module(f'parts.{name}').report()


@app.post('/upload')
def upload():
    name = uuid.uuid4()
    with tempfile.NamedTemporaryFile() as scratch:
        scratch.write(request.data)
        scratch.flush()
        with open(f'/app/uploads/{name}.bin', 'wb') as kept:
            kept.write(request.data)
    return str(name)
"""

_PART = "def report():\n    return 'x' * 100\n"

_READY = """
until curl -sf -o /dev/null http://127.0.0.1:8000/; do sleep 0.2; done
"""

_LEARN = f"""{_READY}
ab -q -n 400 -c 4 http://127.0.0.1:8000/
curl -sf -o /dev/null http://127.0.0.1:8000/report/sales
curl -sf -o /dev/null http://127.0.0.1:8000/report/stock
for n in 1 2 3 4 5 6; do
	head -c 20000 /dev/urandom | curl -sf -o /dev/null --data-binary @- \
		-H 'Content-Type: application/octet-stream' http://127.0.0.1:8000/upload
done
sleep 3
"""

_JUDGE = f"""{_READY}
wrk -t 1 -c 10 -d 2s 'http://127.0.0.1:8000/?page=2'
for part in stock returns sales; do curl -sf -o /dev/null http://127.0.0.1:8000/report/$part; done
for n in 1 2 3 4 5 6 7 8 9 10; do
	head -c $((n * 700000)) /dev/zero | curl -sf -o /dev/null --data-binary @- \
		-H 'Content-Type: application/octet-stream' http://127.0.0.1:8000/upload
done
sleep 1
"""

_COMMAND = (
    'CMD ["gunicorn", "--bind", "0.0.0.0:8000", "--workers", "2", "--max-requests", "300", '
    '"--pid", "/run/app.pid", "app:app"]'
)

PYAPP = Service(
    Recipe(
        "pyapp",
        (
            _COMMAND,
            "WORKDIR /app",
            "EXPOSE 8000",
        ),
        files={
            "app/app.py": _APP,
            "app/parts/__init__.py": "",
            **{f"app/parts/{name}.py": _PART for name in ("sales", "stock", "returns")},
        },
    ),
    packages=("gunicorn", "python3-flask"),
    commands=('mkdir -p "$1"/app/log "$1"/app/uploads',),
    learn=_LEARN,
    judge=_JUDGE,
)
