"""Figures of a checked calibration set: what INT8 would clip, and which features differ from production."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from tasks.calibration.findings import CLIPPING_LIMIT, clips, differs
from tasks.calibration.tables import markdown_of, worst_features
from tasks.store.digests import digest_json
from tasks.tracking.run_content import RunContent, fit_params, fit_tags, scrub, without_host_paths
from validation.drift import KS_LIMIT

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tasks.calibration.report import CalibrationReport, RangeCoverage

_FINE, _BAD, _NEUTRAL = "#0072B2", "#D55E00", "#666666"
_WARNING = "orange: D or PSI surely beyond its limit"
_MOST_BARS = 24
_LONGEST = 34
_LONGEST_BAR = 10.0
_DPI = 110


def draw_ranges(report: CalibrationReport) -> Figure:
    """The largest absolute value of each quantized tensor in production, as a share of that in the set; worst first."""
    rows = report.resemblance.ranges[:_MOST_BARS][::-1]
    figure, (ends, errors) = _figure(len(rows), f"{report.name}: ranges that INT8 would cut off", 2)
    places = np.arange(len(rows))
    colours = [_BAD if clips(row) else _FINE for row in rows]
    ends.barh(places, [_ratio(row) for row in rows], color=colours)
    ends.axvline(1.0, color=_NEUTRAL, linestyle="--", linewidth=1)
    ends.set(yticks=places, xlabel=f"largest in production / largest in the set (at most {_LONGEST_BAR:g})")
    ends.set_yticklabels([_short(row.tensor) for row in rows], fontsize=8)
    errors.barh(places, [100 * row.worst_clipped for row in rows], color=colours)
    errors.axvline(100 * CLIPPING_LIMIT, color=_NEUTRAL, linestyle="--", linewidth=1)
    errors.set(yticks=[], xlabel="error of clipping where it is worst (%)")
    for place, row in zip(places, rows, strict=True):
        if clips(row) and str(row.worst):
            errors.annotate(f" {row.worst}", (100 * row.worst_clipped, float(place)), va="center", fontsize=8)
    errors.margins(x=0.35)
    return figure


def _ratio(row: RangeCoverage) -> float:
    """At most 10: more would leave the other bars no room."""
    if row.set_largest == 0:
        return 1.0 if row.production_largest == 0 else _LONGEST_BAR
    return min(row.production_largest / row.set_largest, _LONGEST_BAR)


def draw_drift(report: CalibrationReport) -> Figure:
    """The K-S distance of the features that differ most, by it or by their PSI, each with its lower bound."""
    rows = worst_features(report.resemblance.features)[:_MOST_BARS][::-1]
    figure, (axes,) = _figure(len(rows), f"{report.name}: distance of features from production", 1)
    places = np.arange(len(rows))
    colours = [_BAD if differs(row) else _FINE for row in rows]
    axes.barh(places, [row.ks for row in rows], color=colours, alpha=0.35, label="D")
    axes.barh(places, [row.ks_low for row in rows], color=colours, height=0.4, label="its lower bound")
    axes.axvline(KS_LIMIT, color=_NEUTRAL, linestyle="--", linewidth=1)
    axes.set(yticks=places, xlabel=f"Kolmogorov-Smirnov distance, the bold part is certain; {_WARNING}", xlim=(0, 1))
    names = [f"{_short(row.feature)}{f', {row.place}' if str(row.place) else ''}" for row in rows]
    axes.set_yticklabels(names, fontsize=8)
    return figure


def _figure(bars: int, title: str, columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10, 1.6 + 0.26 * max(bars, 4)), dpi=_DPI, layout="constrained")
    figure.suptitle(title, fontsize=11)
    found: Any = figure.subplots(1, columns, squeeze=False)
    for axes in found[0]:
        axes.set_ylim(-0.8, bars - 0.2)
    return figure, list(found[0])


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def write_calibration_files(report: CalibrationReport, folder: Path) -> None:
    """Write the report as JSON and Markdown, and its figures, into `folder`."""
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(scrub(report.model_dump(mode="json")), indent=1), encoding="utf-8")
    (folder / "report.md").write_text(without_host_paths(markdown_of(report)), encoding="utf-8")
    figures = {
        "drift": (report.resemblance.features, draw_drift),
        "ranges": (report.resemblance.ranges, draw_ranges),
    }
    for name, (rows, draw) in figures.items():
        if rows:
            draw(report).savefig(folder / f"{name}.png", metadata={"Software": None})


def calibration_content(report: CalibrationReport) -> RunContent:
    """The run of a set that was checked on its own. A day more of age is the same evidence."""
    found = report.resemblance
    evidence = report.model_dump(mode="json", exclude={"age_days"})
    tags = {
        "enginegate.kind": "calibration",
        "enginegate.evidence": digest_json(scrub(evidence)),
        "enginegate.verdict": "pass" if report.passed else "fail",
        "mlflow.source.name": "enginegate calibration check",
        "mlflow.user": "enginegate",
        "mlflow.note.content": "\n".join(f"- {finding.sentence}" for finding in report.findings) or "nothing found",
    }
    params = {"digest": report.digest, "production": report.production, "production_digest": report.production_digest}
    values = {
        "findings": float(len(report.findings)),
        "samples": float(found.set_samples),
        "age_days": float(report.age_days),
        "worst_ks_low": max((row.ks_low for row in found.features), default=0.0),
        "worst_psi_low": max((row.psi_low for row in found.features), default=0.0),
        "worst_clipped": max((row.worst_clipped for row in found.ranges), default=0.0),
    }
    return RunContent(name=report.name, tags=fit_tags(tags), params=fit_params(params), values=values)
