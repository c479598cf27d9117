"""`enginegate gate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, command_of
from flows.console import MARKS
from tasks.errors import VERDICT_CODES, printable
from tasks.rule_view import samples_in_words, told_of_outputs
from tasks.stages.gate import judge_files
from validation.near_repeats import near_in_words

if TYPE_CHECKING:
    from flows.session import Session
    from tasks.stages.gate import Judgement


@click.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The rules, and the outputs they judge.",
)
@command_of
def gate(session: Session, reference: Path, candidate: Path, policy: Path) -> tuple[Document, int]:
    """Judge the outputs in CANDIDATE against those in REFERENCE: .npz files, or folders of shards.

    REFERENCE may also hold label, group, slice.NAME and the masks that outputs name.
    """
    floor = session.policy_floor
    judged = judge_files(reference, candidate, policy, floor)
    verdict = judged.verdict
    for change in judged.tightened:
        session.reporter.say(f"! the policy floor holds for {printable(change)}")
    session.reporter.say(_samples(judged))
    if near := near_in_words(judged.near, judged.searched):
        session.reporter.say(f"! {near}")
    for sentence in told_of_outputs(judged.comparison):
        session.reporter.say(f"- {sentence}")
    if judged.unjudged:
        names = printable(", ".join(judged.unjudged))
        session.reporter.say(f"! the policy has no rule for {names}: measured, but not judged")
    for outcome, sentence in verdict.sentences:
        session.reporter.say(f"{MARKS[outcome.value]} {sentence}")
    for defect in verdict.defects:
        session.reporter.say(f"✕ {defect}")
    for rule in judged.policy.performance:
        session.reporter.say(f"- {rule.metric} is judged by `enginegate convert`, which measures it, not here.")
    session.reporter.say(f"{MARKS[verdict.outcome.value]} verdict: {verdict.outcome.value}")
    document = {"verdict": asdict(verdict), "comparison": asdict(judged.comparison)}
    if floor is not None:
        document["policy_floor"] = {"digest": floor.digest, "tightened": list(judged.tightened)}
    return document, VERDICT_CODES[verdict.outcome.value]


def _samples(judged: Judgement) -> str:
    words = samples_in_words(judged.comparison)
    if judged.comparison.independent is None:
        return words
    if judged.named:
        return f"{words}, by `group`"
    return f"{words}: rows that are the same in all that is here count once; if they are not one sample, add a `group`"
