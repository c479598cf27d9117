"""`enginegate calibration check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import Document, FilledPath, command_of, model_option
from flows.conversion.calibration_sets import check_and_log, count_findings
from tasks.calibration.tables import summary_of, tables_of
from tasks.errors import VERDICT_CODES

if TYPE_CHECKING:
    from pathlib import Path

    from flows.console import Reporter
    from flows.session import Session
    from tasks.calibration.report import CalibrationReport


@click.command()
@click.argument("folder", type=FilledPath(), metavar="SET")
@click.option("--against", type=FilledPath(), metavar="SAMPLE", help="Data to resemble, instead of the manifest's.")
@model_option("the one around SAMPLE")
@command_of
def check(session: Session, folder: Path, against: Path | None, model: Path | None) -> tuple[Document, int]:
    """Check that SET is whole, covers its strata, is fresh, and looks like production.

    SAMPLE is an .npz, safetensors or Parquet file, or a folder of them, with slice.NAME for each stratum. Exit code 3
    when a limit is missed.
    """
    report = check_and_log(session, folder, against, model)
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
