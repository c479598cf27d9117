"""What `enginegate pull` tells people and programs of an engine that a channel offers, and of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.console import MARKS
from flows.promotion.gate_basis import basis_document
from tasks.errors import printable
from tasks.rule_view import deciding_sentence

if TYPE_CHECKING:
    from flows.commands.command import Document
    from flows.promotion.gate_basis import GateBasis
    from tasks.registry.signing import Signature
    from tasks.release.pull import Offer, Pulled


def describe(pulled: Pulled) -> str:
    """Which engine came, and whether its files were here before."""
    megabytes = f"{pulled.offer.size_bytes / 1e6:.1f} MB"
    what = f"{megabytes} fetched and checked" if pulled.fetched else f"{megabytes} here before, checked again"
    return f"{pulled.offer.signed.manifest.engine_id}, {what}"


def offer_lines(offer: Offer, basis: GateBasis) -> list[str]:
    """What a channel offers, a line each that starts with its mark: who moved it when and why, who signed, verdict."""
    move, manifest = offer.move.move, offer.signed.manifest
    verdict = manifest.verdict
    lines = [
        (
            f"channel {offer.address}: move {move.number}, {move.kind} by {move.who} (name as given), {move.when}:"
            f" {move.reason}"
        ),
        _signature_line("move", offer.move.signature),
        _signature_line("manifest", offer.signed.signature),
        f"{MARKS[verdict.outcome.value]} verdict {verdict.outcome.value}: {deciding_sentence(verdict)}",
        *basis.lines,
    ]
    if manifest.override is not None:
        lines.append(
            f"✕ registered by override of {manifest.override.who or 'nobody named'}: {manifest.override.reason}"
        )
    if move.override is not None:
        lines.append(f"✕ by override of {move.who}: {move.override}")
    return [printable(line) for line in lines]


def _signature_line(what: str, signature: Signature) -> str:
    return f"{'✓' if signature.verified else '!'} {what}: {signature.words}"


def outcome_lines(pulled: Pulled) -> list[str]:
    """What a pull did on this host, a line each that starts with its mark."""
    lines = [f"! {file}: was damaged or did not belong there, and was mended" for file in pulled.mended]
    if pulled.report is not None:
        report = pulled.report
        lines += [f"✓ check: {error.sentence}" for error in report.errors]
        lines.append(
            f"✓ check: {report.samples} samples; first call {report.first_ms:.2f} ms, warm {report.warm_ms:.2f} ms"
        )
    lines += [f"- {name}: an old engine, was removed" for name in pulled.removed]
    state = "leads now to" if pulled.moved else "led there before:"
    lines.append(f"✓ {pulled.path.parent / 'current'} {state} {pulled.path.name}")
    return lines


def document_of(pulled: Pulled, basis: GateBasis | None) -> Document:
    """The JSON document of a pull."""
    offer = pulled.offer
    manifest, move = offer.signed.manifest, offer.move
    return {
        "model": offer.address.model,
        "target": offer.address.target,
        "channel": offer.address.channel.value,
        "engine_id": manifest.engine_id,
        "manifest": offer.signed.digest,
        "signature": offer.signed.signature.words,
        "verdict": manifest.verdict.outcome.value,
        "basis": None if basis is None else basis_document(basis),
        "override": None if manifest.override is None else manifest.override.model_dump(mode="json"),
        "move": {**move.move.model_dump(mode="json"), "digest": move.digest, "signature": move.signature.words},
        "size_bytes": offer.size_bytes,
        "folder": str(pulled.path),
        "current": str(pulled.path.parent / "current"),
        "moved": pulled.moved,
        "fetched": pulled.fetched,
        "mended": list(pulled.mended),
        "removed": list(pulled.removed),
        "check": None if pulled.report is None else pulled.report.model_dump(mode="json"),
    }
