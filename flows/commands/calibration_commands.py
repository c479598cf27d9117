"""`enginegate calibration`: check, draw and explain. Heavy imports wait inside the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import Command, Document, FilledPath, command_of
from tasks.errors import VERDICT_CODES

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from flows.session import Session

_PATH = FilledPath()
FEWEST = 32
"""`tasks.model.set_manifest.LEAST_SAMPLES`, which takes too long to import for `--help`."""


def _model_option(otherwise: str) -> Callable[[Command], Command]:
    text = f"The model directory; left out, {otherwise}."
    return click.option("--model", type=_PATH, metavar="DIRECTORY", help=text)


@click.group()
def calibration() -> None:
    """Check, draw and explain the calibration sets that INT8 is made with."""


@calibration.command(short_help="Check that a set is whole, fresh, and like production.")
@click.argument("folder", type=_PATH, metavar="SET")
@click.option("--against", type=_PATH, metavar="SAMPLE", help="Data to resemble, instead of the manifest's.")
@_model_option("the one around SAMPLE")
@command_of
def check(session: Session, folder: Path, against: Path | None, model: Path | None) -> tuple[Document, int]:
    """Check that SET is whole, covers its strata, is fresh, and looks like production.

    SAMPLE is an .npz, safetensors or Parquet file, or a folder of them, with slice.NAME for each stratum. Exit code 3
    when a limit is missed.
    """
    from flows.commands.calibration_report import show_report  # noqa: PLC0415
    from flows.conversion.calibration_sets import check_and_log  # noqa: PLC0415

    report = check_and_log(session, folder, against, model)
    show_report(session.reporter, report)
    return report.model_dump(mode="json"), VERDICT_CODES["pass" if report.passed else "fail"]


@calibration.command(short_help="Draw a set from a sample of production.")
@click.argument("sample", type=_PATH)
@click.option("--size", type=click.IntRange(min=FEWEST), required=True, metavar="N", help="Samples to draw.")
@click.option(
    "--by", multiple=True, required=True, metavar="STRATUM", help="Draw alike from its values; may be repeated."
)
@click.option("--out", type=_PATH, required=True, metavar="SET", help="The folder to make.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="The same seed and sample give the same set.",
)
@click.option("--source", metavar="TEXT", help="Where the samples come from, for the manifest.")
@click.option(
    "--collected",
    nargs=2,
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="FIRST LAST",
    help="Days on which the first and the last sample came in; left out, those on which the files were written.",
)
@_model_option("the one around SAMPLE")
@command_of
def draw(
    session: Session,
    sample: Path,
    size: int,
    by: tuple[str, ...],
    out: Path,
    seed: int,
    source: str | None,
    collected: tuple[datetime, datetime] | None,
    model: Path | None,
) -> tuple[Document, int]:
    """Draw a calibration set from SAMPLE: alike from every stratum, with the tails of the model's scores.

    Samples that the model is validated on are left out.
    """
    from flows.conversion.calibration_sets import draw_from  # noqa: PLC0415

    days = None if collected is None else (collected[0].date(), collected[1].date())
    manifest = draw_from(session, sample, out, size=size, by=by, seed=seed, source=source, collected=days, model=model)
    files = "1 file" if len(manifest.files) == 1 else f"{len(manifest.files)} files"
    session.reporter.say(f"{out}: {manifest.samples:,} samples in {files}, and manifest.yaml")
    return manifest.model_dump(mode="json", by_alias=True), 0


@calibration.command(short_help="Rank the layers of an INT8 engine by how much they hurt.")
@click.argument("engine_id")
@click.option("--figure", type=_PATH, metavar="FILE", help="Also draw the ranking, as PNG.")
@_model_option("the one here or below whose name the engine has")
@command_of
def explain(session: Session, engine_id: str, figure: Path | None, model: Path | None) -> tuple[Document, int]:
    """Rank the layers of an INT8 engine by what quantizing each of them alone does to the outputs.

    The engine need not be registered, but its model directory must be as it was when the engine was made.
    """
    from flows.commands.explanation import explain_engine  # noqa: PLC0415

    sensitivity = explain_engine(session, engine_id, figure, model)
    return sensitivity.model_dump(mode="json"), 0
