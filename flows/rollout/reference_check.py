"""Live pairs against the PyTorch reference, for the command and the flow."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.console import MARKS
from flows.conversion.conversion_plan import version_of
from tasks.errors import InputError, printable
from tasks.model.model_directory import read_model_directory
from tasks.registry.rollouts import RolloutAddress
from tasks.rollout.judging import canary_manifest
from tasks.rollout.reference_sample import AgainstReference, compare_with_reference, draw_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session
    from tasks.registry.steps import RolloutState

LARGEST = 100_000


def judge_sample(
    session: Session, directory: Path, target: str, *, most: int, seed: int
) -> tuple[RolloutState, AgainstReference]:
    """Draw pairs of the last rollout, run them through the module, and print how both engines do.

    Raises:
        InputError: the directory has a mistake or is not the canary's, there was no rollout, or no inputs were kept.
    """
    found = read_model_directory(directory)
    address = RolloutAddress(found.spec.name, target)
    history = session.registry.rollouts.read(address)
    state = None if history.current is None else history.current.rollout
    if state is None:
        raise InputError(f"rollout {address}: nothing was ever rolled out, so there are no pairs")
    manifest = canary_manifest(session.registry, state)
    version = version_of(found, session.policy_floor)
    if version != manifest.cell.version:
        raise InputError(
            f"{directory.name}: is version {version} of {found.spec.name}, and the canary is {state.canary.engine_id};"
            " name the directory that it was converted from"
        )
    pairs = session.reporter.step(
        "draw pairs",
        lambda progress: draw_pairs(
            session.registry, history, state, manifest, most=most, seed=seed, on_progress=progress
        ),
        lambda pairs: f"{len(pairs):,} of rollout {state.id}",
    )
    against = session.reporter.step(
        "reference",
        lambda progress: compare_with_reference(session.stage_context(progress), found, manifest, pairs),
        lambda _: "PyTorch FP32 outputs",
    )
    _show(session, state, against)
    return state, against


def _show(session: Session, state: RolloutState, against: AgainstReference) -> None:
    sides = (("production", state.production, against.production), ("canary", state.canary, against.canary))
    for name, engine, verdict in sides:
        session.reporter.say(f"{name} {engine.engine_id} against PyTorch:")
        for outcome, sentence in verdict.sentences:
            session.reporter.marked(f"  {MARKS[outcome.value]} {printable(sentence)}")
        for defect in verdict.defects:
            session.reporter.marked(f"  ✕ {printable(defect)}")
    judged = against.canary.outcome.value
    session.reporter.marked(f"{MARKS[judged]} verdict: {judged}")


def reference_document(state: RolloutState, against: AgainstReference) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "rollout": state.id,
        "samples": against.samples,
        "canary": asdict(against.canary),
        "production": asdict(against.production),
    }
