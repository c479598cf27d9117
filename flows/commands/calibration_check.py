"""`enginegate calibration check`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, SampleAddress, command_of, model_option
from flows.conversion.calibration_sets import check_and_log, count_findings, local_sample
from tasks.calibration.tables import summary_of, tables_of
from tasks.errors import VERDICT_CODES

if TYPE_CHECKING:
    from pathlib import Path

    from flows.console import Reporter
    from flows.session import Session
    from tasks.calibration.report import CalibrationReport


@click.command()
@click.argument("folder", type=FilledPath(), metavar="SET")
@click.option("--against", type=SampleAddress(), metavar="SAMPLE", help="Data to resemble, instead of the manifest's.")
@model_option("the one around SAMPLE")
@command_of
def check(session: Session, folder: Path, against: Path | str | None, model: Path | None) -> tuple[Document, int]:
    """Check that SET is whole, covers its strata, is fresh, and looks like production.

    SAMPLE is an .npz, safetensors or Parquet file, or a folder of them, with slice.NAME for each stratum; or
    s3://bucket/prefix of traffic that `pull --samples-to` uploaded. Exit code 3 when a limit is missed.
    """
    with nullcontext() if against is None else local_sample(session, against) as sample:
        report = check_and_log(session, folder, sample, model)
    show_report(session.reporter, report)
    return report.model_dump(mode="json"), VERDICT_CODES["pass" if report.passed else "fail"]


def show_report(reporter: Reporter, report: CalibrationReport) -> None:
    """Print every table, then a sentence for each finding, then the verdict."""
    reporter.say(f"calibration set {report.name}: {summary_of(report)}")
    for title, headings, rows in tables_of(report):
        reporter.say("")
        reporter.say(title)
        reporter.table(headings, rows)
    reporter.say("")
    for finding in report.findings:
        reporter.say(f"✕ {finding.check}: {finding.sentence}")
    reporter.say(f"{'✓ pass' if report.passed else '✕ fail'}: {count_findings(report)}")
