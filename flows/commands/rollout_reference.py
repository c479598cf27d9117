"""`enginegate rollout reference`: live pairs against PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of
from flows.rollout.reference_check import LARGEST, judge_sample, reference_document
from tasks.errors import VERDICT_CODES
from tasks.rollout.reference_sample import MOST

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session


@click.command()
@click.argument("directory", type=FilledPath(), metavar="DIRECTORY")
@click.option("--target", required=True, metavar="TARGET", help="Where the engines run.")
@click.option("--most", type=click.IntRange(1, LARGEST), default=MOST, show_default=True, metavar="N", help="Pairs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Which of them.")
@command_of
def reference(session: Session, directory: Path, target: str, most: int, seed: int) -> tuple[Document, int]:
    """Run a sample of a rollout's pairs through the PyTorch module in DIRECTORY, and judge both engines.

    It wants torch, the directory that the canary was converted from, and pairs whose inputs were kept
    (`serving.sampling`). The verdict is the canary's, by its own policy.
    """
    state, against = judge_sample(session, directory, target, most=most, seed=seed)
    return reference_document(state, against), VERDICT_CODES[against.canary.outcome.value]
