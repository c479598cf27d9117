"""`enginegate convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.command import command_of
from flows.conversion.run import run_conversion
from tasks.specs import Precision

if TYPE_CHECKING:
    from flows.conversion.conversion_report import ConversionReport
    from flows.session import Session

MONTH_S = 30 * 24 * 3600


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, metavar="TARGET", help="Only this target; may be repeated.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice([precision.value for precision in Precision]),
    help="Only this precision; may be repeated.",
)
@click.option("--only", metavar="ENGINE_ID", help="Only this engine.")
@click.option(
    "--accept-calibration",
    metavar="REASON",
    help="Quantize although the check of the calibration set found something; the reason is recorded.",
)
@click.option(
    "--again",
    metavar="REASON",
    help="Throw away what is cached of the engines that are chosen, and make them again; the reason is recorded.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True, max=MONTH_S),
    metavar="SECONDS",
    help="Longest time of a stage's child process (default 1800).",
)
@click.option(
    "--source-commit",
    metavar="SHA",
    help="The commit that DIRECTORY was exported from; left out, git is asked.",
)
@command_of
def convert(
    session: Session,
    directory: Path,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    only: str | None,
    accept_calibration: str | None,
    again: str | None,
    time_limit: float | None,
    source_commit: str | None,
) -> tuple[ConversionReport, int]:
    """Convert the model in DIRECTORY: export, convert, build, compare, benchmark, track, register.

    Settings are variables of the environment, like ENGINEGATE_BENCHMARK_S: for how many seconds an engine is timed at
    one batch size (3). README.md lists all, under Where things are kept.
    """
    return run_conversion(
        session,
        directory,
        targets=targets,
        precisions=precisions,
        only=only,
        accept_calibration=accept_calibration,
        again=again,
        time_limit_s=time_limit,
        source_commit=source_commit,
    )
