"""A report as tables of text: for the terminal, and in Markdown for MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.calibration.findings import CLIPPING_LIMIT, clips, differs, lacks_tokens
from validation.drift import KS_LIMIT, PSI_LIMIT, UNSEEN_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tasks.calibration.report import CalibrationReport, FeatureDrift

MOST_ROWS = 12
Rows = list[list[str]]
Table = tuple[str, list[str], Rows]
"""Title, headings, rows; the first cell of a row is ✓ or ✕."""


def tables_of(report: CalibrationReport) -> list[Table]:
    """The tables of a report that have rows: strata, features, tokens, ranges; long ones only with the worst rows."""
    found = report.resemblance
    features = worst_features(found.features)
    tables = [
        ("strata", ["", "stratum", "samples", "minimum", "in the set", "in production"], list(_strata(report))),
        (
            _of("features", features),
            ["", "feature", "where", "D", f"at least (limit {KS_LIMIT:g})", "PSI", f"at least (limit {PSI_LIMIT:g})"],
            [_feature(row) for row in features[:MOST_ROWS]],
        ),
        (
            "tokens",
            ["", "input", "where", "not in the set", "expected", f"surely more (limit {_percent(UNSEEN_LIMIT)})"],
            list(_tokens(report)),
        ),
        (
            _of("ranges", found.ranges),
            [
                "",
                "tensor",
                "set",
                "production",
                "clipped",
                f"worst (limit {_percent(CLIPPING_LIMIT)})",
                "where",
                "may be chance",
            ],
            list(_ranges(report)),
        ),
    ]
    return [table for table in tables if table[2]]


def worst_features(features: Iterable[FeatureDrift]) -> list[FeatureDrift]:
    """The features whose bounds are farthest beyond their limits, or nearest to them, first."""
    return sorted(features, key=lambda row: (-max(row.ks_low / KS_LIMIT, row.psi_low / PSI_LIMIT), -row.ks))


def markdown_of(report: CalibrationReport) -> str:
    """The findings and all tables, in Markdown."""
    lines = [f"# Calibration set {report.name}", "", summary_of(report), ""]
    lines += [f"- ✕ {finding.sentence}" for finding in report.findings]
    for title, headings, rows in tables_of(report):
        lines += ["", f"## {title}", "", _row(headings), _row(["---"] * len(headings)), *map(_row, rows)]
    return "\n".join([*lines, ""])


def summary_of(report: CalibrationReport) -> str:
    """How much was compared with what."""
    found = report.resemblance
    ran = "" if found.run is None else f"; the reference was run on {found.run[0]:,} and {found.run[1]:,} of them"
    features = len({row.feature for row in found.features})
    few = report.independent is not None and report.independent < found.set_samples
    independent = f" ({report.independent:,} independent)" if few else ""
    return (
        f"{found.set_samples:,} samples{independent} against {found.production_samples:,} of {report.production}:"
        f" {features} features, {len(found.ranges)} ranges{ran}"
    )


def _of(title: str, rows: Sequence[object]) -> str:
    return title if len(rows) <= MOST_ROWS else f"{title}: the worst {MOST_ROWS} of {len(rows):,}"


def _strata(report: CalibrationReport) -> Iterator[list[str]]:
    missed = [finding.sentence for finding in report.findings if finding.check == "coverage"]
    for row in report.strata:
        name = f"{row.stratum}={row.value}"
        minimum = _percent(row.minimum) if isinstance(row.minimum, float) else f"{row.minimum:,}"
        share = "-" if row.production_share is None else _percent(row.production_share)
        bad = any(sentence.startswith(f"stratum {name} has ") for sentence in missed)
        yield [_mark(bad), name, f"{row.samples:,}", minimum, _percent(row.share), share]


def _feature(row: FeatureDrift) -> list[str]:
    return [
        _mark(differs(row)),
        row.feature,
        str(row.place) or "all",
        f"{row.ks:.3f}",
        f"{row.ks_low:.3f}",
        f"{row.psi:.2f}",
        f"{row.psi_low:.2f}",
    ]


def _tokens(report: CalibrationReport) -> Iterator[list[str]]:
    for row in report.resemblance.tokens:
        yield [
            _mark(lacks_tokens(row)),
            row.input,
            str(row.place) or "all",
            _percent(row.unseen),
            _percent(row.expected),
            _percent(row.beyond),
        ]


def _ranges(report: CalibrationReport) -> Iterator[list[str]]:
    for row in report.resemblance.ranges[:MOST_ROWS]:
        yield [
            _mark(clips(row)),
            row.tensor,
            f"{row.set_largest:.4g}",
            f"{row.production_largest:.4g}",
            _percent(row.clipped),
            _percent(row.worst_clipped),
            str(row.worst) or "all",
            "no" if row.evident else "yes",
        ]


def _mark(bad: bool) -> str:
    return "✕" if bad else "✓"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"
