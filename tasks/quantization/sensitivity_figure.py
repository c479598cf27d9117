"""Draws which layers INT8 hurts most. See `tracking.figures` for the style."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tasks.quantization.sensitivity import LayerSensitivity, Sensitivity

# Okabe and Ito's palette, as in tracking.figures.
_BEYOND, _WITHIN, _NEUTRAL, _MARK = "#D55E00", "#0072B2", "#666666", "#000000"
_BACKING = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.0}
_MOST_BARS = 30
_DPI = 110
_DECADES = 100.0  # from this ratio of the largest to the smallest on, a linear axis would show the largest alone
_SMALLEST = 1e-4  # what uses up less of a limit is nothing
_LONGEST_NAME = 44


def draw_sensitivity(sensitivity: Sensitivity, path: Path) -> Figure:
    """Write a PNG of the losses of the 30 worst layers, the worst on top, to `path`; return the figure.

    An infinite loss has a bar across the whole axis. The dotted line is the limit of a rule, where the loss is 1.
    """
    shown = sensitivity.layers[:_MOST_BARS]
    figure = Figure(figsize=(10, 2.1 + 0.3 * len(shown)), dpi=_DPI, layout="constrained")
    axes: Axes = figure.subplots()
    low, high, scale = _axis(shown)
    rows = np.arange(len(shown))
    axes.set_xscale(scale)
    axes.barh(
        rows,
        [_drawn(layer, low, high) - low for layer in shown],
        left=low,
        color=[_BEYOND if _loss(layer) > 1 else _WITHIN for layer in shown],
        hatch=["///" if math.isinf(_loss(layer)) else "" for layer in shown],
        edgecolor="white",
        linewidth=0,
        alpha=0.8,
        height=0.7,
    )
    for row, layer in enumerate(shown):
        _note(axes, row, layer, _drawn(layer, low, high))
    axes.axvline(1, color=_MARK, linewidth=1, linestyle=":")
    axes.set_yticks(rows, [f"{_short(layer.node)}  ({layer.op_type})" for layer in shown])
    axes.set(xlim=(low, high), ylim=(len(shown) - 0.4, -0.6), xlabel="loss: share used up of what the limit allows")
    _title(figure, axes, sensitivity, len(shown))
    figure.legend(handles=_legend(), loc="outside lower right", frameon=False, ncols=3)
    figure.savefig(path, format="png", metadata={"Software": None})
    return figure


def _title(figure: Figure, axes: Axes, sensitivity: Sensitivity, shown: int) -> None:
    every = len(sensitivity.layers)
    part = f"the {shown} worst of {every} layers" if shown < every else f"all {every} layers"
    figure.suptitle("What INT8 does to the outputs, layer by layer", fontsize=13, fontweight="bold")
    axes.set_title(
        f"each quantized alone, ranges by {sensitivity.method.value}, {sensitivity.samples:,} samples; {part}",
        fontsize=10,
        color=_NEUTRAL,
    )


def _legend() -> list[Any]:
    return [
        Patch(color=_BEYOND, alpha=0.8, label="beyond a limit"),
        Patch(color=_WITHIN, alpha=0.8, label="within all limits"),
        Line2D([], [], color=_MARK, linewidth=1, linestyle=":", label="limit"),
    ]


def _loss(layer: LayerSensitivity) -> float:
    return math.inf if layer.loss is None else layer.loss


def _axis(shown: Sequence[LayerSensitivity]) -> tuple[float, float, str]:
    """Its ends, and whether it is linear or log. The limit is always on it, and room for what is written on bars."""
    finite = [_loss(layer) for layer in shown if math.isfinite(_loss(layer))]
    largest = max([*finite, 1.0])
    smallest = min([loss for loss in finite if loss > 0], default=largest)
    if largest / smallest < _DECADES:
        return 0.0, 1.35 * largest, "linear"
    low = max(_SMALLEST, 10.0 ** math.floor(math.log10(smallest) - 0.3))
    return low, largest * (largest / low) ** 0.35, "log"


def _drawn(layer: LayerSensitivity, low: float, high: float) -> float:
    return min(max(_loss(layer), low), high)


def _note(axes: Axes, row: int, layer: LayerSensitivity, end: float) -> None:
    worst = layer.worst
    rule = "" if worst is None else f"  {worst.output} {worst.metric}"
    infinite = math.isinf(_loss(layer))
    text = f"{'infinite' if infinite else f'{_loss(layer):.3g}'}{rule}"
    axes.annotate(
        text,
        (end, row),
        xytext=(-5 if infinite else 5, 0),
        textcoords="offset points",
        ha="right" if infinite else "left",
        va="center",
        fontsize=8.5,
        bbox=_BACKING,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[:14]}…{name[-29:]}"
