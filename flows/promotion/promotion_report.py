"""Shows what a promotion or a rollback would do, and the life of a channel; the same as JSON documents."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.console import MARKS, Reporter, short_commit, short_digest
from flows.promotion.gate_basis import GateBasis, basis_document, basis_of
from tasks.errors import printable
from tasks.rule_view import JudgedRule, deciding_words, judged_rules
from tasks.store.digests import digest_json
from tasks.timings import Benchmark, PytorchForm
from validation.verdict import Outcome

if TYPE_CHECKING:
    from tasks.records import EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.engines import SignedManifest
    from tasks.registry.moves import Move, SignedMove
    from tasks.registry.signing import Signature
    from tasks.release.promote import Proposal

NOTHING = "-"


def show_proposal(reporter: Reporter, proposal: Proposal, override: str | None, who: str) -> None:
    """Print what is there, what would come, and in red what speaks against it and why it would come all the same."""
    current = proposal.channel.current
    old = "nothing" if current is None else printable(current.engine_id)
    reporter.say(f"{proposal.kind} {proposal.address}: {_step_of(proposal)}")
    reporter.say(f"  {old} → {proposal.proposed.manifest.engine_id}")
    _show_last_move(reporter, proposal)
    reporter.say()
    reporter.side_by_side(["", "now", "would come"], comparison_rows(proposal))
    reporter.say()
    if not proposal.is_done:
        _show_objections(reporter, proposal, override, who)


def _show_objections(reporter: Reporter, proposal: Proposal, override: str | None, who: str) -> None:
    for line in looser_lines(proposal):
        reporter.marked(line)
    for objection in proposal.objections:
        reporter.marked(f"✕ {printable(objection)}")
    if proposal.override is not None:
        reporter.marked(f"✕ returns to an override: {printable(proposal.override)}")
    if override is not None and proposal.objections:
        reporter.marked(f"✕ override by {printable(who)}, kept in the history for ever: {printable(override)}")


def looser_lines(proposal: Proposal) -> list[str]:
    """What the proposed engine was asked less for than the one that is there, a marked line each."""
    return [line for line in _proposed_basis(proposal).warnings if line.startswith("? looser")]


def _proposed_basis(proposal: Proposal) -> GateBasis:
    current = None if proposal.current is None else proposal.current.manifest
    return basis_of(proposal.proposed.manifest, current, f"in {proposal.address.channel.value} now")


def _step_of(proposal: Proposal) -> str:
    name = proposal.address.channel
    if proposal.kind == "rollback":
        return "back to the engine before"
    return "the first step" if name.before is None else f"{name.before.value} → {name.value}"


def _show_last_move(reporter: Reporter, proposal: Proposal) -> None:
    if proposal.channel.moves:
        last = proposal.channel.moves[-1]
        reporter.marked(f"  moved there {_told(last)}")
        if last.move.override is not None:
            reporter.marked(f"✕ it is there by override: {printable(last.move.override)}")
    if proposal.current_fault is not None:
        reporter.marked(f"✕ {printable(proposal.current_fault)}")


def _told(one: SignedMove) -> str:
    reason = f": {printable(one.move.reason)}" if one.move.reason else ""
    who = f"{printable(one.move.who)} (name as given)"  # a text, and not the key's
    return f"{printable(one.move.when)} by {who}, {one.signature.words}{reason}"


def move_words(number: int, digest: str) -> str:
    """`7:3f2a91bc4d5e`: a move's number and the beginning of its digest, as `pull --at-least` takes it."""
    return f"{number}:{short_digest(digest).removeprefix('sha256:')}"


def written_words(move: Move) -> str:
    """The same of a move that was written now, in this release's form."""
    return move_words(move.number, digest_json(move.model_dump(mode="json")))


def comparison_rows(proposal: Proposal) -> list[list[str]]:
    """What a channel points at beside what would come, a row for each property: its name, now, would come.

    A cell that starts with ✕ or ? is one to look at. Rules come with the worst of the proposed engine first.
    """
    rows = []
    for properties in (_identity, _rules, _measurements):
        now = {} if proposal.current is None else properties(proposal.current.manifest)
        coming = properties(proposal.proposed.manifest)
        rows += [[name, now.get(name, NOTHING), coming.get(name, NOTHING)] for name in {**coming, **now}]
    rows += _registration_rows(proposal)
    return [[printable(cell) for cell in row] for row in rows]


def _identity(manifest: EngineManifest) -> dict[str, str]:
    outcome, basis = manifest.verdict.outcome, basis_of(manifest)
    return {
        "engine": manifest.engine_id,
        "version": manifest.cell.version,
        "commit": short_commit(manifest.source_commit or NOTHING),
        "verdict": f"{MARKS[outcome.value]} {outcome.value}",
        "policy": basis.policy_words,
        "confidence": basis.evidence_words,
        **({"not judged": f"? {', '.join(basis.unjudged)}"} if basis.unjudged else {}),
        "worst rule": f"{_warning(outcome)}{deciding_words(manifest.verdict)}",
    }


def _rules(manifest: EngineManifest) -> dict[str, str]:
    return {rule.name: _judged(rule) for rule in judged_rules(manifest.verdict)}


def _judged(rule: JudgedRule) -> str:
    """`0.0016 [0.0014, 0.0018] (≤ 0.01)`."""
    value, _, limit = rule.against_limit.partition(" (")
    bounds = "" if rule.low is None or rule.high is None else f" [{_short(rule.low, rule)}, {_short(rule.high, rule)}]"
    return f"{_warning(rule.outcome)}{value}{bounds} ({limit}"


def _short(bound: float, rule: JudgedRule) -> str:
    """Four digits, or eight where four would make it the ideal that it is not."""
    return f"{bound:.8g}" if rule.ideal and float(f"{bound:.4g}") == rule.ideal else f"{bound:.4g}"


def _measurements(manifest: EngineManifest) -> dict[str, str]:
    latency = manifest.benchmark.headline
    return {
        "p50 / p99": f"{latency.p50_ms:.2f} / {latency.p99_ms:.2f} ms at batch {latency.batch}",
        "speed-up": _speedup(manifest.benchmark),
        "size": f"{manifest.plan.size_bytes / 1e6:.1f} MB",
    }


def _speedup(benchmark: Benchmark) -> str:
    ratio = benchmark.headline_speedup
    bounds = benchmark.speedup_interval.get(PytorchForm.EAGER_FP32, {}).get(benchmark.headline_batch)
    if ratio is None:
        return NOTHING
    return f"{ratio:.2f}x" + ("" if bounds is None else f" [{bounds[0]:.2f}, {bounds[1]:.2f}]")


def _registration_rows(proposal: Proposal) -> list[list[str]]:
    """What the registry says of both engines."""
    now = {} if proposal.current is None else _registration(proposal.current, registered=True)
    coming = _registration(proposal.proposed, registered=proposal.registered)
    return [[name, now.get(name, NOTHING), coming.get(name, NOTHING)] for name in {**coming, **now}]


def _registration(engine: SignedManifest, *, registered: bool) -> dict[str, str]:
    manifest = engine.manifest
    rows = {
        "signature": signature_words(engine.signature) if registered else "? not registered yet",
        "registered": f"{manifest.created_at} by {manifest.who or 'somebody'}" if registered else NOTHING,
        "MLflow run": manifest.mlflow_run or NOTHING,
        "manifest": short_digest(engine.digest),
    }
    if manifest.override is not None:
        rows["override"] = f"✕ {manifest.override.who or 'somebody'}: {manifest.override.reason}"
    return rows


def proposal_document(proposal: Proposal, moved: Move | None) -> dict[str, Any]:
    """A proposal as JSON: what is there, what would come, what speaks against it; and the move, if one was made."""
    current = proposal.channel.current
    return {
        "model": proposal.address.model,
        "target": proposal.address.target,
        "channel": proposal.address.channel.value,
        "kind": proposal.kind,
        "pointed_at": None if current is None else current.model_dump(mode="json"),
        "current": None
        if proposal.current is None
        else _engine_document(proposal.current, basis_of(proposal.current.manifest)),
        "current_fault": proposal.current_fault,
        "proposed": _engine_document(proposal.proposed, _proposed_basis(proposal)),
        "registered": proposal.registered,
        "objections": list(proposal.objections),
        "moved": moved is not None,
        "move": None if moved is None else moved.model_dump(mode="json"),
    }


def _engine_document(engine: SignedManifest, basis: GateBasis) -> dict[str, Any]:
    return {
        "basis": basis_document(basis),
        "digest": engine.digest,
        "signature": _signature_document(engine.signature),
        "manifest": engine.manifest.model_dump(mode="json"),
    }


def _signature_document(signature: Signature) -> dict[str, Any]:
    return {"standing": signature.words, **asdict(signature)}


def show_history(reporter: Reporter, channel: Channel) -> None:
    """Print a channel's moves, the newest first; → marks where it points now, and ✕ the rules that were broken."""
    reporter.say(f"{channel.address}: {_moves(len(channel.moves))}")
    for one in reversed(channel.moves):
        move = one.move
        mark = "→" if move is channel.current else " "
        engines = f"{printable(move.engine_id)}, before {printable(move.before or 'nothing')}"
        reporter.marked(f"{mark} {move_words(move.number, one.digest):>16} {move.kind} {engines}")
        reporter.say(f"      {_told(one)}")
        if move.override is not None:
            reporter.marked(f"    ✕ override: {printable(move.override)}")


def _moves(count: int) -> str:
    return f"{count or 'no'} {'move' if count == 1 else 'moves'}"


def history_document(channel: Channel) -> dict[str, Any]:
    """A channel's moves as JSON, the newest first, with digests and signatures."""
    return {
        "current": None if channel.current is None else channel.current.engine_id,
        "moves": [
            {
                **one.move.model_dump(mode="json"),
                "digest": one.digest,
                "signature": _signature_document(one.signature),
                "current": one.move is channel.current,
            }
            for one in reversed(channel.moves)
        ],
    }


def _warning(outcome: Outcome) -> str:
    """The mark of what did not pass; nothing for what did, so that it stands out."""
    return "" if outcome is Outcome.PASS else f"{MARKS[outcome.value]} "


def signature_words(signature: Signature) -> str:
    """Who signed, with the mark that colours it: ✓ where a trusted key did, else ?."""
    return f"{'✓' if signature.verified else '?'} {signature.words}"
