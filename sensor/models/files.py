"""Models as bytes: in the store, and as files that people carry between hosts.

A file is a msgpack map: ``magic`` "rote-model", ``version``, ``sha256`` of the payload, and
``payload``, itself msgpack as the store keeps it. Nothing of a damaged file is taken.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgpack

from sensor.containers.container import Image
from sensor.errors import ModelFileError, UsageError
from sensor.events import Actor, OperationClass, Origin
from sensor.models.counts_file import Reader, pack_counts, unpack_counts
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, Program, WriteKey
from sensor.models.model import Evidence, Model, ModelState, Source, Transition
from sensor.models.phases import ALWAYS, Phase
from sensor.models.trust_files import pack_trust, unpack_trust
from sensor.paths import Pattern

MAGIC = "rote-model"
VERSION = 2
_READ = (1, 2)  # version 1 had no counts of units
_LIMIT = 256 << 20


def pack_model(model: Model) -> bytes:
    """A model as msgpack. Paths are bytes, so that every name survives."""
    return _pack(
        {
            "id": model.id,
            "image": {
                "name": model.image.name,
                "tag": model.image.tag,
                "digest": model.image.digest,
                "id": model.image.id,
            },
            "signature": model.signature,
            "state": str(model.state),
            "manual": model.manual,
            "keys": [_pack_key(key, evidence) for key, evidence in model.keys.items()],
            "sessions": [_pack_key(key, evidence) for key, evidence in model.sessions.items()],
            "observed_seconds": model.observed_seconds,
            "dry_run_seconds": model.dry_run_seconds,
            "extensions": model.extensions,
            "containers": model.containers,
            "runs": model.runs,
            "complete_runs": model.complete_runs,
            "lost": model.lost,
            "lost_seconds": model.lost_seconds,
            "created_ns": model.created_ns,
            "updated_ns": model.updated_ns,
            "steady_seconds": model.steady_seconds,
            "history": [[t.time_ns, t.old, t.new, t.cause] for t in model.history],
            "novelties": [_pack_key(key, seen) for key, seen in model.novelties.items()],
            **pack_counts(model),
            "trust": pack_trust(model.trust, _pack_key),
        }
    )


def unpack_model(data: bytes, number: int, where: str) -> Model:
    """Read what ``pack_model`` wrote.

    Args:
        data: the bytes.
        number: the kernel's number for the model.
        where: what to name in errors: a file, or a row of the store.

    Raises:
        ModelFileError: naming the place and what was expected.
    """
    reader = Reader(_unpack(data, where), where)
    image = Reader(reader.get("image", dict), where, "image.")
    model_id = reader.get("id", str)
    model = Model(
        id=model_id,
        number=number,
        image=Image(
            image.get("name", str),
            image.get("tag", str),
            image.get("digest", str),
            image.get("id", str),
        ),
        signature=reader.get("signature", str),
        state=reader.convert("state", ModelState),
        manual=reader.get("manual", bool),
        keys=dict(_keys(reader, "keys")),
        sessions=dict(_keys(reader, "sessions")),
        observed_seconds=float(reader.get("observed_seconds", (int, float))),
        dry_run_seconds=float(reader.get("dry_run_seconds", (int, float))),
        extensions=reader.get("extensions", int),
        containers=reader.get("containers", int),
        runs=reader.get("runs", int),
        complete_runs=reader.get("complete_runs", int),
        lost=reader.get("lost", int),
        lost_seconds=float(reader.get("lost_seconds", (int, float))),
        created_ns=reader.get("created_ns", int),
        updated_ns=reader.get("updated_ns", int),
        history=_history(reader, model_id),
        steady_seconds=float(reader.optional("steady_seconds", (int, float), 0.0)),
        trust=unpack_trust(
            reader.optional("trust", dict, None),
            lambda rows, field: _keys(Reader({field: rows}, where), field),
            where,
        ),
    )
    if reader.has("novelties"):
        model.novelties = dict(_keys(reader, "novelties"))
    unpack_counts(reader, model)
    return model


def export_bytes(model: Model) -> bytes:
    """A model as an exported file holds it."""
    payload = pack_model(model)
    return _pack(
        {
            "magic": MAGIC,
            "version": VERSION,
            "sha256": hashlib.sha256(payload).hexdigest(),
            "payload": payload,
        }
    )


def import_model(data: bytes, where: str, number: int = 0) -> Model:
    """Read an exported model.

    Raises:
        ModelFileError: it is no model, of another version, damaged, or not of the schema.
    """
    if len(data) > _LIMIT:
        raise ModelFileError(f"{where}: larger than {_LIMIT >> 20} MiB; expected an exported model")
    outer = Reader(_unpack(data, where), where)
    if outer.get("magic", str) != MAGIC:
        raise ModelFileError(f"{where}: magic: expected {MAGIC!r}")
    version = outer.get("version", int)
    if version not in _READ:
        raise ModelFileError(
            f"{where}: version: {version}; expected {VERSION}, as this Rote writes it"
        )
    payload = outer.get("payload", bytes)
    if hashlib.sha256(payload).hexdigest() != outer.get("sha256", str):
        raise ModelFileError(f"{where}: sha256: does not fit the payload; the file is damaged")
    return unpack_model(payload, number, f"{where}: payload")


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape")
    return packed


def _unpack(data: bytes, where: str) -> Any:
    try:
        return msgpack.unpackb(data, raw=False, unicode_errors="surrogateescape")
    except Exception as error:  # msgpack raises a dozen unrelated types for damaged input
        raise ModelFileError(
            f"{where}: not msgpack ({str(error) or type(error).__name__}); "
            "expected an exported model"
        ) from error


def _pack_key(key: Key, evidence: Evidence) -> list[Any]:
    if isinstance(key, ExecKey):
        content: list[Any] = [
            "exec", key.parent.path, key.parent.applet, key.program.path, key.program.applet,
            int(key.origin), int(key.actor), key.script, key.shape,
        ]  # fmt: skip
    else:
        content = ["write", key.program.path, key.program.applet, key.pattern, int(key.operation)]
    return [
        content, evidence.first_ns, evidence.last_ns, evidence.count, evidence.containers,
        evidence.runs, str(evidence.source), int(evidence.phases),
    ]  # fmt: skip


def _keys(reader: Reader, field: str) -> list[tuple[Key, Evidence]]:
    found: list[tuple[Key, Evidence]] = []
    for i, row in enumerate(reader.get(field, list)):
        try:
            content, first_ns, last_ns, count, containers, runs, source, *more = row
            (phases,) = more or (ALWAYS,)
            evidence = Evidence(
                int(first_ns), int(last_ns), int(count), int(containers), int(runs),
                Source(source), Phase(phases),
            )  # fmt: skip
            found.append((_key(content), evidence))
        except (ValueError, TypeError, UsageError) as error:
            raise ModelFileError(f"{reader.where}: {field}[{i}]: {error}") from error
    return found


def _key(content: Any) -> Key:
    kind, *rest = content
    if kind == "exec":
        parent, parent_applet, program, applet, origin, actor, script, *more = rest
        (shape,) = more or (ANY_ARGUMENTS,)
        _strings(parent, parent_applet, program, applet, shape)
        return ExecKey(
            Program(parent, parent_applet),
            Program(program, applet),
            Origin(origin),
            Actor(actor),
            bool(script),
            shape,
        )
    if kind == "write":
        program, applet, pattern, operation = rest
        _strings(program, applet, pattern)
        Pattern.parse(pattern)
        return WriteKey(Program(program, applet), pattern, OperationClass(operation))
    raise ValueError(f"expected 'exec' or 'write', found {kind!r}")


def key_text(key: Key) -> str:
    """A key as one line of JSON, for audits; ``key_from_text`` reads it back."""
    return json.dumps(_pack_key(key, Evidence(0, 0))[0])


def key_from_text(text: str, where: str) -> Key:
    """Read what ``key_text`` wrote.

    Raises:
        ModelFileError: it is no key.
    """
    try:
        return _key(json.loads(text))
    except (ValueError, TypeError, UsageError) as error:
        raise ModelFileError(f"{where}: {text}: is no key of a model: {error}") from error


def _strings(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"expected text, found {type(value).__name__}")


def _history(reader: Reader, model_id: str) -> list[Transition]:
    found = []
    for i, row in enumerate(reader.get("history", list)):
        try:
            time_ns, old, new, cause = row
            found.append(Transition(int(time_ns), model_id, str(old), str(new), str(cause)))
        except (ValueError, TypeError) as error:
            raise ModelFileError(f"{reader.where}: history[{i}]: {error}") from error
    return found
