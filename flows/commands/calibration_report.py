"""Shows the report of a calibration set on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.conversion.calibration_sets import count_findings
from tasks.calibration.tables import summary_of, tables_of

if TYPE_CHECKING:
    from flows.console import Reporter
    from tasks.calibration.report import CalibrationReport


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
