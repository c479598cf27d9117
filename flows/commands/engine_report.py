"""What people and programs are told of registered engines, of their upkeep, and of one that is verified."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flows.console import MARKS, Reporter, short_digest
from flows.promotion.gate_basis import GateBasis, basis_document, basis_of, engine_in_use
from flows.promotion.promotion_report import signature_words
from tasks.errors import RefusedError, printable
from tasks.registry.evidence import artifacts_of
from tasks.registry.retention import Hold, RemovalPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from flows.session import Session
    from tasks.records import Cell, EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.engines import SignedManifest
    from tasks.registry.upkeep import Removed

HEADINGS = [
    "engine",
    "verdict",
    "policy",
    "confidence",
    "p50 ms",
    "speed-up",
    "size MB",
    "digest",
    "registered",
    "signed",
    "channels",
]
PointingChannels = dict[str, list[str]]
"""The names of the channels that point at an engine, by target."""


@dataclass(frozen=True)
class ListedEngine:
    """A registered engine, the channels that point at it, and what its verdict rests on."""

    signed: SignedManifest
    pointing: PointingChannels
    basis: GateBasis


def listed_engines(engines: Iterable[SignedManifest], channels: Iterable[Channel]) -> list[ListedEngine]:
    """Engines beside the channels; each is compared with the one that its target's last channel points at."""
    found = {one.manifest.engine_id: one for one in engines}
    pointing: dict[str, PointingChannels] = {engine_id: {} for engine_id in found}
    in_use: dict[tuple[str, str], tuple[EngineManifest, str]] = {}
    for channel in channels:  # in the order of the steps, so that the last one stays
        if channel.current is not None and channel.current.engine_id in found:
            address = channel.address
            pointing[channel.current.engine_id].setdefault(address.target, []).append(address.channel.value)
            manifest = found[channel.current.engine_id].manifest
            in_use[address.model, address.target] = (manifest, f"in {address.channel.value}")
    return [
        ListedEngine(one, pointing[engine_id], _basis_beside(one.manifest, in_use)) for engine_id, one in found.items()
    ]


def _basis_beside(manifest: EngineManifest, in_use: Mapping[tuple[str, str], tuple[EngineManifest, str]]) -> GateBasis:
    beside = in_use.get((manifest.cell.model, manifest.cell.target))
    return basis_of(manifest) if beside is None else basis_of(manifest, *beside)


def show_engines(reporter: Reporter, engines: list[ListedEngine]) -> None:
    """Print a line an engine, and below them what is to be looked at: overrides, and what a verdict left out."""
    if engines:
        reporter.table(HEADINGS, [_engine_row(one) for one in engines])
    for one in engines:
        manifest = one.signed.manifest
        if manifest.override is not None:
            reporter.marked(f"✕ {manifest.engine_id}: {override_words(manifest)}")
        if one.basis.warnings:
            reporter.marked(f"? {manifest.engine_id}")
        for warning in one.basis.warnings:
            reporter.marked(f"    {warning}")


def _engine_row(listed: ListedEngine) -> list[str]:
    one, basis = listed.signed, listed.basis
    manifest, benchmark = one.manifest, one.manifest.benchmark
    speedup, outcome = benchmark.headline_speedup, manifest.verdict.outcome.value
    return [
        manifest.engine_id,
        outcome if manifest.override is None else f"✕ {outcome}, by override",
        basis.policy_words,
        basis.evidence_words,
        f"{benchmark.headline.p50_ms:.2f}",
        "-" if speedup is None else f"{speedup:.2f}x",
        f"{manifest.plan.size_bytes / 1e6:.1f}",
        short_digest(manifest.plan.digest),
        printable(manifest.created_at),
        signature_words(one.signature),
        "; ".join(f"{target}: {', '.join(names)}" for target, names in listed.pointing.items()) or "-",
    ]


def override_words(manifest: EngineManifest) -> str:
    """`verdict is fail, registered by override of WHO: REASON`, in one line; empty where there was no override."""
    if manifest.override is None:
        return ""
    who = manifest.override.who or "somebody"
    outcome = manifest.verdict.outcome.value
    return printable(f"verdict is {outcome}, registered by override of {who}: {manifest.override.reason}")


def engine_document(listed: ListedEngine) -> dict[str, Any]:
    """A registered engine as JSON: its manifest and its digest, who signed it, where it is, how it was judged."""
    one = listed.signed
    return one.manifest.model_dump(mode="json") | {
        "manifest_digest": one.digest,
        "signed": one.signature.words,
        "channels": listed.pointing,
        "basis": basis_document(listed.basis),
    }


def show_plan(reporter: Reporter, plan: RemovalPlan, days: int, *, delete: bool) -> None:
    """Print what would go, engine by engine, how much stays and why, and which engines lack files."""
    for engine in plan.engines:
        reporter.say(f"- {engine.cell.engine_id}, registered {engine.registered.isoformat(timespec='seconds')}")
    for fault in plan.incomplete:
        reporter.marked(f"✕ {printable(fault)}")
    held = f"channels {plan.count(Hold.CHANNEL)}, history {plan.count(Hold.HISTORY)}"
    kept = f"kept {_count(len(plan.kept), 'engine')} ({held}, younger than {days} days {plan.count(Hold.AGE)})"
    if not plan.engines and not plan.files:
        reporter.say(f"{kept}, nothing to delete")
        return
    size = f"{_count(len(plan.files), 'file')}, {plan.size_bytes / 1e6:.1f} MB"
    words = "will" if delete else "would"
    reporter.say(f"{kept}, {words} delete {_count(len(plan.engines), 'engine')}, {size}")
    if not delete:
        reporter.say("nothing was changed; run again with --delete")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def plan_words(plan: RemovalPlan) -> str:
    """How many engines were looked at."""
    return _count(len(plan.kept) + len(plan.engines), "engine")


def removed_words(removed: Removed) -> str:
    """How much went."""
    files = f"{_count(len(removed.files), 'file')}, {removed.size_bytes / 1e6:.1f} MB"
    return f"{_count(len(removed.engines), 'engine')}, {files}"


def show_removed(reporter: Reporter, removed: Removed) -> None:
    """Print what was kept against the plan."""
    for cell in removed.spared:
        reporter.marked(f"? {cell.engine_id} stays: it was promoted or registered anew meanwhile")


def plan_document(plan: RemovalPlan, removed: Removed | None, days: int) -> dict[str, Any]:
    """A plan of upkeep as JSON, with why each engine and file that stays does; `deleted` is null in a dry run."""
    return {
        "older_than_days": days,
        "before": plan.before.isoformat(timespec="seconds"),
        "engines": [engine.cell.engine_id for engine in plan.engines],
        "files": {entry.key: entry.size_bytes for entry in plan.files},
        "size_bytes": plan.size_bytes,
        "kept": [asdict(one) for one in plan.kept],
        "kept_files": [asdict(one) for one in plan.kept_files],
        "incomplete": list(plan.incomplete),
        "deleted": None if removed is None else _removed_document(removed),
    }


def _removed_document(removed: Removed) -> dict[str, Any]:
    return {
        "engines": [cell.engine_id for cell in removed.engines],
        "files": [entry.key for entry in removed.files],
        "size_bytes": removed.size_bytes,
        "spared": [cell.engine_id for cell in removed.spared],
    }


@dataclass(frozen=True)
class Examination:
    """A registered engine that was read again: its manifest, if that can be trusted, and what is wrong.

    `basis` is what its verdict rests on, beside that of the engine in use.
    """

    engine_id: str
    signed: SignedManifest | None
    faults: tuple[str, ...]
    basis: GateBasis | None = None

    @property
    def files(self) -> int:
        """How many different files it has; 0 where its manifest cannot be trusted."""
        if self.signed is None:
            return 0
        return len({file.digest for artifact in artifacts_of(self.signed.manifest).values() for file in artifact.files})


class _FaultyError(RefusedError):
    """What ends a step of `verify` with ✕."""

    def __init__(self, examination: Examination) -> None:
        super().__init__("refused")
        self.examination = examination


def examine_engine(session: Session, cell: Cell) -> Examination:
    """Read all of a registered engine again, and print a line that says how it went.

    Raises:
        InputError: there is no such engine.
    """

    def work(on_progress: Callable[[int, int], None]) -> Examination:
        faults = tuple(session.registry.engines.verify(cell, on_progress))
        try:
            signed = session.registry.engines.read_signed(cell)
            basis = basis_of(signed.manifest, *engine_in_use(session.registry, cell))
            found = Examination(cell.engine_id, signed, faults, basis)
        except RefusedError as error:
            found = Examination(cell.engine_id, None, faults or (str(error),))
        if found.faults:
            raise _FaultyError(found)
        return found

    try:
        return session.reporter.step(
            cell.engine_id,
            work,
            lambda found: f"all digests of {_count(found.files, 'file')} and the verdict hold",
            tells_why=False,
        )
    except _FaultyError as error:
        return error.examination


def show_examination(reporter: Reporter, found: Examination) -> None:
    """Print what is wrong, who signed it, how it was judged, and in red by which override it is there."""
    for fault in found.faults:
        reporter.marked(f"    ✕ {printable(fault)}")
    if found.signed is None:
        return
    manifest = found.signed.manifest
    reporter.marked(f"    {signature_words(found.signed.signature)}")
    if manifest.override is not None:
        reporter.marked(f"    ✕ {override_words(manifest)}")
    else:
        outcome = manifest.verdict.outcome.value
        reporter.marked(f"    {MARKS[outcome]} verdict is {outcome}")
    for line in () if found.basis is None else found.basis.lines:
        reporter.marked(f"    {line}")


def examination_document(found: Examination) -> dict[str, Any]:
    """An examination as JSON; all is null where the manifest cannot be trusted."""
    manifest = None if found.signed is None else found.signed.manifest
    return {
        "faults": list(found.faults),
        "files": found.files,
        "signed": None if found.signed is None else found.signed.signature.words,
        "verdict": None if manifest is None else manifest.verdict.outcome.value,
        "override": None if manifest is None or manifest.override is None else manifest.override.model_dump(),
        "basis": None if found.basis is None else basis_document(found.basis),
    }
