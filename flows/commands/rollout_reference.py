"""`enginegate rollout reference`: live pairs against PyTorch."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from flows.console import MARKS
from flows.conversion.conversion_plan import version_of
from tasks.errors import VERDICT_CODES, InputError, printable
from tasks.model.model_directory import read_model_directory
from tasks.registry.rollouts import RolloutAddress
from tasks.rollout.judging import canary_manifest
from tasks.rollout.reference_sample import MOST, compare_with_reference, draw_pairs

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session

_LARGEST = 100_000


@click.command()
@click.argument("directory", type=FilledPath(), metavar="DIRECTORY")
@click.option("--target", required=True, metavar="TARGET", help="Where the engines run.")
@click.option("--most", type=click.IntRange(1, _LARGEST), default=MOST, show_default=True, metavar="N", help="Pairs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Which of them.")
@command_of
def reference(session: Session, directory: Path, target: str, most: int, seed: int) -> tuple[Document, int]:
    """Run a sample of a rollout's pairs through the PyTorch module in DIRECTORY, and judge both engines.

    It wants torch, the directory that the canary was converted from, and pairs whose inputs were kept
    (`serving.sampling`). The verdict is the canary's, by its own policy.
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
    for name, engine, verdict in (
        ("production", state.production, against.production),
        ("canary", state.canary, against.canary),
    ):
        session.reporter.say(f"{name} {engine.engine_id} against PyTorch:")
        for outcome, sentence in verdict.sentences:
            session.reporter.marked(f"  {MARKS[outcome.value]} {printable(sentence)}")
        for defect in verdict.defects:
            session.reporter.marked(f"  ✕ {printable(defect)}")
    verdict_word = against.canary.outcome.value
    session.reporter.marked(f"{MARKS[verdict_word]} verdict: {verdict_word}")
    document = {
        "model": address.model,
        "target": target,
        "rollout": state.id,
        "samples": against.samples,
        "canary": asdict(against.canary),
        "production": asdict(against.production),
    }
    return document, VERDICT_CODES[verdict_word]
