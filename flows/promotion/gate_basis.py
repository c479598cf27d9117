"""What a verdict rests on, for those who decide by it: which policy, how sure, how many samples, and what it left out.

`{mae: max 1e9}` passes as `✓` like any other policy does; so this stands beside every verdict.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flows.console import short_digest
from tasks.errors import EnginegateError, printable
from tasks.records import Cell
from tasks.registry.moves import ChannelAddress
from validation.looseness import find_looser

if TYPE_CHECKING:
    from tasks.records import EngineManifest
    from tasks.registry.registry import Registry

ORIGINS = {"default": "the default", "own": "the model's own"}


@dataclass(frozen=True)
class GateBasis:
    """What a verdict rests on.

    `origin` is `default` or `own`, and None where an older release did not say. `floor` is the digest of the policy
    floor that it was under. `unjudged` are the outputs that no rule names. `looser` is what it asks less for than that
    of the engine which is `beside` it: `in production now`, `before`; None where there is none.
    """

    policy: str
    origin: str | None
    floor: str | None
    confidence: float
    min_samples: int
    samples: int
    unjudged: tuple[str, ...]
    beside: str | None = None
    looser: tuple[str, ...] = ()

    @property
    def policy_words(self) -> str:
        """`sha256:3f2a91bc4d5e, the model's own`."""
        origin = "" if self.origin is None else f", {ORIGINS[self.origin]}"
        return f"{short_digest(self.policy)}{origin}" + ("" if self.floor is None else ", under the policy floor")

    @property
    def evidence_words(self) -> str:
        """`0.95, on 2,400 samples (300 needed)`."""
        return f"{self.confidence:g}, on {self.samples:,} samples ({self.min_samples:,} needed)"

    @property
    def warnings(self) -> list[str]:
        """What is to be looked at, a line each that starts with its mark."""
        found = [f"? no rule judges output {printable(name)}" for name in self.unjudged]
        return found + [f"? looser than {self.beside}: {printable(each)}" for each in self.looser]

    @property
    def lines(self) -> list[str]:
        """All of it, a line each of 80 characters or fewer as far as names allow."""
        return [f"- policy {self.policy_words}", f"- confidence {self.evidence_words}", *self.warnings]


def basis_of(manifest: EngineManifest, beside: EngineManifest | None = None, where: str = "there now") -> GateBasis:
    """What an engine's verdict rests on, beside that of another engine, which is `where`, if one is given."""
    policy, judged = manifest.policy, {rule.output for rule in manifest.policy.rules}
    looser = () if beside is None else _looser(manifest, beside)
    return GateBasis(
        policy=manifest.policy_digest,
        origin=manifest.policy_origin,
        floor=manifest.policy_floor,
        confidence=policy.confidence,
        min_samples=policy.min_samples,
        samples=manifest.comparison.samples,
        unjudged=tuple(name for name in manifest.outputs if name not in judged),
        beside=None if beside is None else where,
        looser=looser,
    )


def _looser(manifest: EngineManifest, beside: EngineManifest) -> tuple[str, ...]:
    own, other = manifest.comparison.samples, beside.comparison.samples
    fewer = (f"{own:,} samples, {other:,} there",) if own < other else ()
    rules = find_looser(manifest.policy, beside.policy)
    precisions = [each.cell.precision.value for each in (manifest, beside)]
    if rules and {manifest.policy_origin, beside.policy_origin} == {"default"} and len(set(precisions)) > 1:
        # Each precision has its defaults: a line for every limit of INT8 after FP16 would teach people to skip them.
        rules = ("the default limits of {}, those of {} there".format(*precisions),)
    return (*rules, *fewer)


def basis_document(basis: GateBasis) -> dict[str, Any]:
    """The same as JSON."""
    return asdict(basis)


def engine_in_use(registry: Registry, cell: Cell) -> tuple[EngineManifest | None, str]:
    """The engine that the last channel points at which points at any, from production down; and what to call it.

    None too where that channel or engine cannot be read: who asks wants to see another one.
    """
    for address in reversed(ChannelAddress.all_of(cell.model, cell.target)):
        try:
            move = registry.channels.read(address).current
            if move is not None:
                found = registry.engines.read_manifest(Cell.parse(move.engine_id))
                return found, f"in {address.channel.value}"
        except EnginegateError:
            return None, ""
    return None, ""
