"""Tells MLflow where the channels of the registry point; whether that succeeds changes nothing in the registry."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING

from tasks.errors import EnginegateError, RefusedError
from tasks.records import Cell
from tasks.registry.layout import manifest_key
from tasks.registry.moves import ChannelAddress
from tasks.rule_view import deciding_words
from tasks.tracking.registered_models import RegisteredEngine, alias_of, mirror_engines

if TYPE_CHECKING:
    from flows.session import Session
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import Move

# MLflow is imported in 2 to 3 s; then four small requests an engine take milliseconds.
LIMIT_S = 20.0
MOST_LOOKS = 4
LONGEST_REASON = 300
S3 = "s3://"


def update_aliases(session: Session, model: str, target: str) -> None:
    """Let MLflow's registered model show where the channels of a model for a target point now.

    Never raises and takes at most `LIMIT_S` seconds: where MLflow is down, slow or refuses, one line says so, and the
    next call mends it.
    """
    faults: list[str] = []
    # A thread, because MLflow tries a silent host again for minutes; one that is left behind ends with the process.
    thread = Thread(target=_try_to_mirror, args=(session, model, target, faults), daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    if thread.is_alive():
        faults = [f"no answer within {LIMIT_S:g} s"]
    if faults:
        session.reporter.say(
            f"! MLflow was not told: {faults[0]}; the registry is right, the next promotion tells it again"
        )


def _try_to_mirror(session: Session, model: str, target: str, faults: list[str]) -> None:
    try:
        _mirror(session, model, target)
    except EnginegateError as error:
        faults.append(_in_one_line(str(error)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the channel was moved, and that alone counts
        faults.append(_in_one_line(f"{type(error).__name__}: {error}"))


def _in_one_line(message: str) -> str:
    first = message.strip().partition("\n")[0]
    return first if len(first) <= LONGEST_REASON else f"{first[:LONGEST_REASON]}…"


def _mirror(session: Session, model: str, target: str) -> None:
    """Mirror until nothing was moved meanwhile: so what is written last is never what was read first."""
    moves = _read_moves(session, model, target)
    for _ in range(MOST_LOOKS):
        mirror_engines(session.settings.tracking_uri, model, _pointed(session, target, moves))
        before, moves = moves, _read_moves(session, model, target)
        if moves == before:
            return


def _read_moves(session: Session, model: str, target: str) -> dict[str, Move]:
    channels = map(session.registry.channels.read, ChannelAddress.all_of(model, target))
    return {one.address.channel.value: one.current for one in channels if one.current is not None}


def _pointed(session: Session, target: str, moves: dict[str, Move]) -> dict[str, RegisteredEngine]:
    """The engine behind each alias, read once where several channels point at it."""
    engines = {
        engine_id: _describe(session, [move for move in moves.values() if move.engine_id == engine_id])
        for engine_id in {move.engine_id: None for move in moves.values()}
    }
    return {alias_of(target, name): engines[move.engine_id] for name, move in moves.items()}


def _describe(session: Session, moves: list[Move]) -> RegisteredEngine:
    """The engine that these moves point at."""
    signed = session.registry.engines.read_signed(Cell.parse(moves[0].engine_id))
    manifest, address = signed.manifest, session.settings.registry_address
    for move in moves:
        if move.manifest != signed.digest:
            raise RefusedError(
                f"channel {move.address} points at a manifest of {move.engine_id} that is not the registered one; see"
                f" `enginegate verify {move.engine_id}`"
            )
    headline = manifest.benchmark.headline
    return RegisteredEngine(
        engine_id=manifest.engine_id,
        target=manifest.cell.target,
        manifest=manifest_key(manifest.cell),
        manifest_digest=signed.digest,
        registry=address if address.startswith(S3) else None,
        verdict=manifest.verdict.outcome.value,
        deciding=deciding_words(manifest.verdict),
        signature=signed.signature.words,
        override=_override(signed, moves),
        run_id=manifest.mlflow_run,
        p50_ms=headline.p50_ms,
        batch=headline.batch,
        size_bytes=manifest.plan.size_bytes,
    )


def _override(signed: SignedManifest, moves: list[Move]) -> str | None:
    """Every reason for which a rule was broken for this engine."""
    own = signed.manifest.override
    reasons = [None if own is None else own.reason, *(move.override for move in moves)]
    return "; ".join(dict.fromkeys(filter(None, reasons))) or None
