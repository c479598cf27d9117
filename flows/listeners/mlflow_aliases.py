"""Lets MLflow show where the channels of the registry point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import RefusedError
from tasks.objects.location import S3
from tasks.records import Cell
from tasks.registry.layout import manifest_key
from tasks.registry.moves import ChannelAddress, Move
from tasks.rule_view import deciding_words
from tasks.tracking.registered_models import RegisteredEngine, alias_of, mirror_engines

if TYPE_CHECKING:
    from flows.settings import Settings
    from tasks.registry.engines import SignedManifest
    from tasks.registry.registry import Registry

MOST_LOOKS = 4


@dataclass(frozen=True)
class MlflowAliases:
    """MLflow's registered models, which show where the channels of each model and target point."""

    settings: Settings
    registry: Registry
    name: str = "MLflow"

    def hear(self, move: Move) -> None:
        """Mirror until nothing was moved meanwhile: so what is written last is never what was read first.

        Raises:
            RefusedError: a channel or a manifest cannot be trusted, and is not shown.
            StageError: there is no MLflow, or it cannot be reached or refuses.
        """
        moves = self._read_moves(move.model, move.target)
        for _ in range(MOST_LOOKS):
            mirror_engines(self.settings.tracking_uri, move.model, self._pointed(move.target, moves))
            before, moves = moves, self._read_moves(move.model, move.target)
            if moves == before:
                return

    def _read_moves(self, model: str, target: str) -> dict[str, Move]:
        channels = map(self.registry.channels.read, ChannelAddress.all_of(model, target))
        return {one.address.channel.value: one.current for one in channels if one.current is not None}

    def _pointed(self, target: str, moves: dict[str, Move]) -> dict[str, RegisteredEngine]:
        """The engine behind each alias, read once where several channels point at it."""
        engines = {
            engine_id: self._describe([move for move in moves.values() if move.engine_id == engine_id])
            for engine_id in {move.engine_id: None for move in moves.values()}
        }
        return {alias_of(target, name): engines[move.engine_id] for name, move in moves.items()}

    def _describe(self, moves: list[Move]) -> RegisteredEngine:
        """The engine that these moves point at."""
        signed = self.registry.engines.read_signed(Cell.parse(moves[0].engine_id))
        manifest, address = signed.manifest, self.settings.registry_address
        for move in moves:
            if move.manifest != signed.digest:
                raise RefusedError(
                    f"channel {move.address} points at a manifest of {move.engine_id} that is not the registered one;"
                    f" see `enginegate verify {move.engine_id}`"
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
