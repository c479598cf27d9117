"""`enginegate calibration draw`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, SampleAddress, command_of, model_option
from flows.conversion.calibration_sets import draw_from, local_sample
from tasks.model.set_manifest import LEAST_SAMPLES

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from flows.session import Session


@click.command()
@click.argument("sample", type=SampleAddress())
@click.option("--size", type=click.IntRange(min=LEAST_SAMPLES), required=True, metavar="N", help="Samples to draw.")
@click.option(
    "--by", multiple=True, metavar="STRATUM", help="Draw alike from its values; may be repeated. Left out, by chance."
)
@click.option("--out", type=FilledPath(), required=True, metavar="SET", help="The folder to make.")
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
@model_option("the one around SAMPLE")
@command_of
def draw(
    session: Session,
    sample: Path | str,
    size: int,
    by: tuple[str, ...],
    out: Path,
    seed: int,
    source: str | None,
    collected: tuple[datetime, datetime] | None,
    model: Path | None,
) -> tuple[Document, int]:
    """Draw a calibration set from SAMPLE: alike from every stratum, with the tails of the model's scores.

    Samples that the model is validated on are left out. SAMPLE may be s3://bucket/prefix of traffic that
    `pull --samples-to` uploaded.
    """
    days = None if collected is None else (collected[0].date(), collected[1].date())
    where = sample if isinstance(sample, str) else None
    with local_sample(session, sample) as found:
        manifest = draw_from(
            session, found, out, size=size, by=by, seed=seed, source=source, collected=days, model=model,
            fetched_from=where,
        )  # fmt: skip
    files = "1 file" if len(manifest.files) == 1 else f"{len(manifest.files)} files"
    session.reporter.say(f"{out}: {manifest.samples:,} samples in {files}, and manifest.yaml")
    return manifest.model_dump(mode="json", by_alias=True), 0
