"""Draws all rules of an engine on one scale: how much of what each limit allows the engine uses up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from tasks.rule_view import JudgedRule

MOST_RULES = 40
"""Rules drawn; of more, the worst."""
_DPI = 110
_LONGEST_NAME = 52
_NARROWEST, _WIDEST = 1.25, 3.0
"""Ends of the axis, in limits: the limit is always seen, and one bad rule does not squash the others."""
_NEUTRAL, _EDGE, _BEYOND = "#666666", "#222222", "#EEEEEE"


@dataclass(frozen=True)
class _Look:
    """Colour of a bar, colours of text on white and on the bar, and the mark of an estimate."""

    colour: str
    dark: str
    on_bar: str
    marker: str


# Of different lightness, and with marks of different shape: readers without colours can tell them apart.
_LOOKS = {
    Outcome.PASS: _Look("#56B4E9", _EDGE, _EDGE, "o"),
    Outcome.INCONCLUSIVE: _Look("#F0E442", _EDGE, _EDGE, "D"),
    Outcome.FAIL: _Look("#A33B00", "#A33B00", "white", "X"),
}
_MARK: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": _EDGE, "markersize": 6}


def draw_rules(engine_id: str, rules: Sequence[JudgedRule]) -> Figure:
    """A bar for the interval of each rule, in units of its limit, and a mark at its estimate.

    `rules` are sorted, the worst first; at least one.
    """
    shown = rules[:MOST_RULES]
    figure = Figure(figsize=(11, 1.9 + 0.27 * len(shown)), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.1))
    axes: Axes = figure.subplots()
    end = _end_of_axis(shown)
    axes.axvspan(1, end, color=_BEYOND, zorder=0)
    axes.axvline(1, color=_EDGE, linewidth=1.4, zorder=1)
    for row, rule in enumerate(shown):
        _draw_rule(axes, row, rule, end)
    axes.set(xlim=(-0.015 * end, end), ylim=(len(shown) - 0.4, -0.6))
    axes.set_xlabel("used of what the limit allows: 0 % = ideal, 100 % = the limit")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_yticks(range(len(shown)), [_short(rule.name) for rule in shown])
    _write_numbers(axes, shown)
    _title(figure, axes, engine_id, rules, len(shown))
    return figure


def _end_of_axis(rules: Sequence[JudgedRule]) -> float:
    ends = [end for rule in rules for end in _spread(rule) if isfinite(end)]
    return min(_WIDEST, max(_NARROWEST, 1.08 * max(ends, default=0.0)))


def _spread(rule: JudgedRule) -> tuple[float, float]:
    """The interval as shares of what the limit allows; a bound that is not known may be anywhere."""
    if rule.judged_value is None:
        return float("inf"), float("inf")
    at = rule.used(rule.judged_value)
    if rule.low is None and rule.high is None:
        return at, at
    ends = [rule.used(bound) for bound in (rule.low, rule.high) if bound is not None]
    if (rule.side != "min" and rule.high is None) or (rule.side != "max" and rule.low is None):
        ends.append(float("inf"))
    astride = rule.side == "within" and (rule.low or 0.0) <= 0.0 <= (rule.high or 0.0)
    return 0.0 if astride else min(*ends, at), max(*ends, at)


def _draw_rule(axes: Axes, row: int, rule: JudgedRule, end: float) -> None:
    look = _LOOKS[rule.outcome]
    if rule.judged_value is None:
        axes.text(0.0, row, "no value", va="center", color=look.dark, style="italic")
        return
    at, (low, high) = rule.used(rule.judged_value), _spread(rule)
    first, last = min(low, end), min(high, end)
    axes.plot([0, first], [row, row], color=look.colour, linewidth=2.5, zorder=2)
    axes.barh(row, last - first, left=first, height=0.52, color=look.colour, edgecolor=_EDGE, linewidth=0.7, zorder=3)
    if at <= end:
        axes.plot(at, row, look.marker, **_MARK, zorder=5)
    if at > end:
        shown = f"{at:,.0%} ▶" if isfinite(at) else "▶"
        backing = {"facecolor": _BEYOND, "edgecolor": "none", "pad": 1.5}
        axes.text(end, row, shown, va="center", ha="right", color=look.dark, zorder=4, bbox=backing)
    elif high > end:
        axes.text(end, row, "▶", va="center", ha="right", color=look.on_bar, zorder=4)


def _write_numbers(axes: Axes, rules: Sequence[JudgedRule]) -> None:
    """Estimate, limit and number of samples, to the right of each rule."""
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    right.set_yticks(range(len(rules)), [f"{rule.against_limit}{_samples(rule)}" for rule in rules], color=_EDGE)
    right.tick_params(length=0, pad=8)


def _samples(rule: JudgedRule) -> str:
    if rule.n is None:
        return ""
    return f", n = {rule.n:,}" + ("" if rule.needed is None else f" of about {rule.needed:,}")


def _title(figure: Figure, axes: Axes, engine_id: str, rules: Sequence[JudgedRule], shown: int) -> None:
    counts = Counter(rule.outcome for rule in rules)
    figure.suptitle(
        f"all rules: {', '.join(f'{counts[o]} {o.value}' for o in Outcome)}", fontsize=13, fontweight="bold"
    )
    part = (
        f"   the {shown} worst of {len(rules):,} rules, {len(rules) - shown:,} left out" if shown < len(rules) else ""
    )
    axes.set_title(f"{engine_id}{part}", fontsize=10, color=_NEUTRAL)
    marks = [
        Line2D([], [], color=look.colour, marker=look.marker, linewidth=8, label=outcome.value, **_MARK)
        for outcome, look in _LOOKS.items()
    ]
    figure.legend(handles=marks, loc="outside lower right", ncols=len(marks), frameon=False)


def _short(text: str) -> str:
    half = _LONGEST_NAME // 2
    return text if len(text) <= _LONGEST_NAME else f"{text[:half]}…{text[-half:]}"
