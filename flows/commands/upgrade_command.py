"""`enginegate upgrade`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import CHANNEL, FilledPath, command_of
from flows.upgrades.upgrade_lines import show_upgrade
from flows.upgrades.upgrading import run_upgrade
from tasks.errors import InputError
from tasks.rebuild_records import LONGEST_AGAIN
from tasks.registry.moves import ChannelName

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session
    from flows.upgrades.upgrade_report import UpgradeReport


@click.command()
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; may be repeated.")
@click.option("--channel", type=CHANNEL, help="What to make again is what this points at (default production).")
@click.option("--target", metavar="TARGET", help="Where the engines run; left out, this host's GPU, or the CPU.")
@click.option(
    "--data",
    multiple=True,
    type=FilledPath(),
    metavar="PATH",
    help="A model directory, or validation data, where this host's store lacks them; may be repeated.",
)
@click.option(
    "--build",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another option of TensorRT's builder, by its name in model.yaml's `build`; may be repeated.",
)
@click.option(
    "--again",
    metavar="REASON",
    help="Also make what this very toolchain built, without what is cached; the reason is recorded.",
)
@command_of
def upgrade(
    session: Session,
    models: tuple[str, ...],
    channel: str | None,
    target: str | None,
    data: tuple[Path, ...],
    build: tuple[str, ...],
    again: str | None,
) -> tuple[UpgradeReport, int]:
    """Make the engines of a channel again with this host's toolchain, and judge them beside those they would replace.

    Each is built of the registry's own graph and judged against its own reference outputs, and registered if it passes.
    No channel moves: what is printed says which engine may follow, and by which command.
    """
    if not models and channel is None:
        raise InputError("upgrade: say which engines: --model NAME, or --channel production for those of all models")
    if again is not None and len(again) > LONGEST_AGAIN:
        raise InputError(f"--again: has {len(again):,} characters, and may have {LONGEST_AGAIN:,}; shorten it")
    name = ChannelName.PRODUCTION if channel is None else ChannelName(channel)
    report, code = run_upgrade(session, models, name, target, build=build, data=data, again=again)
    show_upgrade(session.reporter, report)
    return report, code
