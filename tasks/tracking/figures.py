"""Draws figures of paired outputs and of errors by slice; pure functions that return matplotlib figures.

They use matplotlib's object-oriented interface alone: pyplot's global state keeps figures alive and needs a backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from validation.breakdowns import SliceError

Values = NDArray[np.float64]

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_REFERENCE, _CANDIDATE, _NEUTRAL, _MARK = "#0072B2", "#D55E00", "#666666", "#000000"
_BACKING = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5}
_MOST_POINTS = 5_000
_MOST_STEPS = 4_000
_MOST_BARS = 30
_BINS = 40
_CROWDED = 0.6  # share of values at the left end from which the curves cross the upper left corner
_DPI = 110


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Values `[n]` of reference and candidate, pair by pair, and what the figures say of them.

    `metrics` are those measured on all data, by name; `seen` counts all pairs, of which these may be a part, and
    `left_out` those that were not finite. `low` and `high` are the declared range, if any.
    """

    engine_id: str
    name: str
    reference: Values
    candidate: Values
    seen: int
    left_out: int = 0
    low: float | None = None
    high: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)


def draw_distribution(pairs: Pairs) -> Figure:
    """Distributions of both sides: as histograms, and cumulated with the widest gap (Kolmogorov-Smirnov's D) marked."""
    figure = _wide_figure(pairs, "distribution of reference and candidate")
    axes: dict[str, Axes] = figure.subplot_mosaic(
        [["histogram", "cumulated"], ["histogram", "gap"]], height_ratios=[2.6, 1]
    )
    low, high = _limits(pairs)
    _draw_histogram(axes["histogram"], pairs, low, high)
    _draw_cumulated(axes["cumulated"], axes["gap"], pairs, low, high)
    return figure


def _draw_histogram(axes: Axes, pairs: Pairs, low: float, high: float) -> None:
    edges = np.linspace(low, high, _BINS + 1)
    for values, colour, label, width in _sides(pairs):
        counts, _ = np.histogram(np.clip(values, low, high), edges)
        axes.stairs(100 * counts / values.size, edges, color=colour, label=label, linewidth=width)
    axes.set(xlabel=pairs.name, ylabel="share of values per bin (%)", xlim=_widen(low, high))
    axes.set_title(f"histogram, {_BINS} bins", fontsize=10)
    axes.set_ylim(bottom=0, top=1.14 * axes.get_ylim()[1])
    axes.legend(loc="upper right", frameon=False)
    _note(axes, _beyond(pairs.candidate, low, high, "counted in its end bins"), (0.03, 0.97))


def _beyond(values: Values, low: float, high: float, remedy: str) -> str:
    outside = int(((values < low) | (values > high)).sum())
    plural = "" if outside == 1 else "s"
    return f"{outside:,} candidate value{plural} beyond\nthe axis, {remedy}" if outside else ""


def _draw_cumulated(axes: Axes, gap_axes: Axes, pairs: Pairs, low: float, high: float) -> None:
    limits = _widen(low, high)
    grid, r, c = _cumulate(pairs.reference, pairs.candidate)
    gap = c - r
    widest = int(np.abs(gap).argmax())
    for share, (_, colour, label, width) in zip((r, c), _sides(pairs), strict=True):
        axes.step(
            _extend(grid, *limits), _extend(share, 0, 1), color=colour, label=label, linewidth=width, where="post"
        )
    at = float(np.clip(grid[widest], low, high))
    axes.plot([at, at], [r[widest], c[widest]], color=_MARK, linewidth=2.5, marker="_", markersize=9)
    d = pairs.metrics.get("ks")
    size = f"widest gap = {abs(float(gap[widest])):.4f}" if d is None else f"K-S gap D = {d:.4f}"
    axes.annotate(
        f"{size}\nat x = {grid[widest]:.4g}",
        (at, float(r[widest] + c[widest]) / 2),
        xytext=(0.97, 0.06),
        textcoords="axes fraction",
        ha="right",
        arrowprops={"arrowstyle": "-", "color": _MARK, "linewidth": 0.8},
    )
    axes.set(ylabel="share of values ≤ x", xlim=limits, ylim=(-0.02, 1.02))
    axes.set_title("cumulated (ECDF)", fontsize=10)
    axes.tick_params(labelbottom=False)
    crowded = float((pairs.reference < low + 0.35 * (high - low)).mean()) > _CROWDED
    axes.legend(loc="center right" if crowded else "upper left", frameon=False)
    _draw_gap(gap_axes, grid, gap, at, limits)
    gap_axes.set(xlabel=pairs.name)


def _draw_gap(axes: Axes, grid: Values, gap: Values, at: float, limits: tuple[float, float]) -> None:
    axes.axhline(0, color=_NEUTRAL, linewidth=0.8)
    axes.fill_between(
        _extend(grid, *limits), _extend(gap, 0, 0), step="post", color=_CANDIDATE, alpha=0.45, linewidth=0
    )
    widest = float(gap[np.abs(gap).argmax()])
    axes.plot([at, at], [0, widest], color=_MARK, linewidth=2.5)
    reach = max(1.25 * float(np.abs(gap).max()), 1e-3)
    axes.set(ylabel="difference", xlim=limits, ylim=(-reach, reach))
    axes.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))


def _cumulate(reference: Values, candidate: Values) -> tuple[Values, Values, Values]:
    """Distinct values, and the share of either side at or below each: all of them, or `_MOST_STEPS` evenly by rank.

    The value at the widest gap is always among them.
    """
    grid = np.unique(np.concatenate([reference, candidate]))
    r, c = (np.searchsorted(np.sort(side), grid, side="right") / side.size for side in (reference, candidate))
    if grid.size <= _MOST_STEPS:
        return grid, r, c
    even = np.linspace(0, grid.size - 1, _MOST_STEPS).astype(int)
    chosen = np.union1d(even, np.abs(c - r).argmax())
    return grid[chosen], r[chosen], c[chosen]


def _extend(values: Values, first: float, last: float) -> Values:
    return np.concatenate([[min(first, values[0])], values, [max(last, values[-1])]])


def draw_agreement(pairs: Pairs) -> Figure:
    """Candidate against reference with the identity line, and the error, which that scale hides, beside it."""
    figure = _wide_figure(pairs, "candidate against reference")
    axes: list[Axes] = list(figure.subplots(1, 2))
    r, c = _thin(pairs.reference), _thin(pairs.candidate)
    low, high = _limits(pairs)
    points: dict[str, Any] = {
        "s": 9,
        "alpha": float(np.clip(400 / r.size, 0.12, 0.8)),
        "color": _CANDIDATE,
        "linewidths": 0,
    }
    axes[0].plot([low, high], [low, high], color=_REFERENCE, linewidth=1.2, label="identity", zorder=3)
    axes[0].scatter(r, np.clip(c, low, high), **points)
    axes[0].set(xlabel="reference", ylabel="candidate", xlim=_widen(low, high), ylim=_widen(low, high))
    axes[0].set_aspect("equal")
    axes[0].legend(loc="lower right", frameon=False)
    _note(axes[0], f"{_measured(pairs)}\n{_beyond(c, low, high, 'drawn on its edge')}".strip(), (0.03, 0.97))
    axes[1].axhline(0, color=_REFERENCE, linewidth=1.2, zorder=3)
    axes[1].scatter(r, c - r, **points)
    axes[1].set(xlabel="reference", ylabel="error = candidate minus reference")
    _draw_mae(axes[1], pairs.metrics.get("mae"))
    return figure


def _draw_mae(axes: Axes, mae: float | None) -> None:
    reach = max(abs(end) for end in axes.get_ylim())
    axes.set_ylim(-1.15 * reach, 1.15 * reach)
    if mae is None:
        return
    for sign in (-1, 1):
        axes.axhline(sign * mae, color=_MARK, linewidth=1, linestyle=":", zorder=3, label="± MAE" if sign > 0 else None)
    axes.legend(loc="upper right", frameon=False)


def _measured(pairs: Pairs) -> str:
    shown = (("mae", "MAE = {:.4g}"), ("max_abs", "max |error| = {:.4g}"), ("pearson", "Pearson's r = {:.5f}"))
    return "\n".join(text.format(v) for name, text in shown if (v := pairs.metrics.get(name)) is not None)


def draw_error_by_slice(engine_id: str, errors: Sequence[SliceError], mae: float | None) -> Figure:
    """Mean absolute error of one output by the values of one slice, with the number of samples on each bar.

    `mae` is that of all samples. Of very many values the worst are drawn.
    """
    shown = sorted(errors, key=lambda error: -error.mae)[:_MOST_BARS]
    shown.sort(key=lambda error: _natural(error.value))
    figure = Figure(figsize=(9, 1.9 + 0.32 * len(shown)), dpi=_DPI, layout="constrained")
    axes: Axes = figure.subplots()
    rows = np.arange(len(shown))
    axes.barh(rows, [error.mae for error in shown], color=_CANDIDATE, alpha=0.75, height=0.7)
    axes.set_yticks(rows, [f"{_short(error.value)}  (n = {error.n:,})" for error in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    for row, error in zip(rows, shown, strict=True):
        axes.annotate(
            f"{error.mae:.3g}", (error.mae, row), xytext=(5, 0), textcoords="offset points", va="center", bbox=_BACKING
        )
    if mae is not None:
        axes.axvline(mae, color=_MARK, linewidth=1, linestyle=":", label=f"mean of all samples = {mae:.3g}")
        figure.legend(loc="outside lower right", frameon=False)
    largest = max([error.mae for error in shown] + [mae or 0.0])
    axes.set(xlabel="mean absolute error", ylabel=shown[0].slice, xlim=(0, 1.18 * largest or 1.0))
    axes.set_title(engine_id, fontsize=10, color=_NEUTRAL)
    part = f", the {len(shown)} worst of {len(errors):,} values" if len(shown) < len(errors) else ""
    figure.suptitle(f"{shown[0].output}: error by {shown[0].slice}{part}", fontsize=13, fontweight="bold")
    return figure


def _natural(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _short(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:30]}…{text[-17:]}"  # noqa: PLR2004 - 30 and 17 and an ellipsis


def _limits(pairs: Pairs) -> tuple[float, float]:
    """Ends of the value axis: all of the reference, and of the candidate what does not squash the rest.

    The candidate's central 98 % may reach one range of the reference beyond it, the rest a quarter more.
    """
    first, last = _reference_limits(pairs)
    span = last - first or abs(first) or 1.0
    bulk_low, bulk_high = (float(end) for end in np.quantile(pairs.candidate, (0.01, 0.99)))
    low = max(float(pairs.candidate.min()), min(first, max(bulk_low, first - span)) - 0.25 * span)
    high = min(float(pairs.candidate.max()), max(last, min(bulk_high, last + span)) + 0.25 * span)
    low, high = min(first, low), max(last, high)
    return (low, high) if low < high else (low - 0.02 * span, high + 0.02 * span)


def _reference_limits(pairs: Pairs) -> tuple[float, float]:
    first, last = float(pairs.reference.min()), float(pairs.reference.max())
    if pairs.low is not None and pairs.high is not None:
        first, last = min(first, pairs.low), max(last, pairs.high)
    return first, last


def _widen(low: float, high: float) -> tuple[float, float]:
    """The axis with a margin, so that what lies on its ends is seen."""
    margin = 0.02 * (high - low)
    return low - margin, high + margin


def _sides(pairs: Pairs) -> tuple[tuple[Values, str, str, float], ...]:
    """Values, colour, label and line width; the reference is the wider line, so that it shows below the candidate's."""
    return (pairs.reference, _REFERENCE, "reference", 3.2), (pairs.candidate, _CANDIDATE, "candidate", 1.3)


def _thin(values: Values) -> Values:
    """At most `_MOST_POINTS` of the values, evenly by position."""
    return values[:: -(-values.size // _MOST_POINTS)]


def _wide_figure(pairs: Pairs, what: str) -> Figure:
    """A titled figure for two panels. Its margins are fixed: working them out takes half the time of drawing."""
    figure = Figure(figsize=(11, 5), dpi=_DPI)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.11, top=0.84, wspace=0.22, hspace=0.1)
    drawn = pairs.reference.size
    count = f"n = {pairs.seen:,}" if drawn + pairs.left_out == pairs.seen else f"{drawn:,} of {pairs.seen:,} drawn"
    left_out = f", {pairs.left_out:,} not finite left out" if pairs.left_out else ""
    figure.suptitle(f"{pairs.name}: {what}", fontsize=13, fontweight="bold")
    figure.text(0.5, 0.925, f"{pairs.engine_id}   {count}{left_out}", ha="center", va="top", color=_NEUTRAL)
    return figure


def _note(axes: Axes, text: str, at: tuple[float, float]) -> None:
    if not text:
        return
    axes.text(*at, text, transform=axes.transAxes, va="top", bbox=_BACKING, zorder=4)
