"""Draws what `play.py` wrote: the timeline of a rollout, as the pictures of docs/rollouts-live.md.

PYTHONPATH=. python tests/benchmarks/rollout/live/draw.py FOLDER/good.json docs/pictures/rollout-good.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes

PERIOD_S = 2.0
LEAST = 0.02
"""Percent that the axis of weights begins at: 0 lies there."""
BLUE, ORANGE, RED, GREY = "#1f5fa8", "#d97a00", "#b3261e", "#777777"
WORDS = {"start": "start", "advance": "next step", "finish": "finished", "rollback": "rolled back"}


def draw(played: dict[str, Any], path: Path) -> None:
    """Three panels over the same seconds: traffic, the judged rules, latencies that users saw."""
    mpl.use("Agg")
    figure, (traffic, rules, latency) = plt.subplots(3, 1, figsize=(9, 7.2), sharex=True, height_ratios=(3, 3, 2))
    _draw_traffic(traffic, played)
    _draw_rules(rules, played)
    _draw_latency(latency, played)
    for axes in (traffic, rules, latency):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6")
        axes.set_axisbelow(True)
        for at, kind, _ in played["steps"]:
            axes.axvline(at, color=RED if kind == "rollback" else GREY, linewidth=0.8, linestyle=":")
    latency.set_xlabel("seconds since the clients began")
    latency.set_xlim(0, 1.09 * max(one["at"] for one in played["answers"]))  # room for the last step's name
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_traffic(axes: Axes, played: dict[str, Any]) -> None:
    end = max(one["at"] for one in played["answers"])
    last = 100.0 if played["ended"] == "finish" else played["weights"][-1][1]  # production is the canary from then on
    steps = [*played["weights"][:-1], (played["weights"][-1][0], last), (end, last)]
    times, weights = zip((0.0, 0.0), *steps, strict=True)
    axes.step(times, np.maximum(weights, LEAST), where="post", color=BLUE, label="weight in the signed step")
    shares = list(_by_period(played["answers"], lambda part: 100 * np.mean([_is_canary(one) for one in part])))
    axes.plot(
        [at for at, _ in shares], [max(share, LEAST) for _, share in shares], ".", color=ORANGE, markersize=4,
        label="answers that only the canary gives, of 2 s",
    )  # fmt: skip
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(-0.1, 260)
    axes.set_yticks([0, 1, 5, 25, 100], ["0", "1", "5", "25", "100"])
    axes.set_ylabel("traffic of the canary, %")
    axes.legend(loc="upper left", fontsize=8, frameon=False, bbox_to_anchor=(0, 0.93))
    for at, kind, _ in played["steps"]:
        axes.annotate(WORDS.get(kind, kind), (at, 170), fontsize=8, color=RED if kind == "rollback" else GREY,
                      xytext=(3, 0), textcoords="offset points")  # fmt: skip
    axes.set_title(
        f"{played['name']}: {played['ended']} after {played['ended_at'] - played['began_at']:.0f} s", loc="left"
    )


def _is_canary(answer: dict[str, Any]) -> bool:
    return bool(answer["by"]) and "production" not in answer["by"]


def _draw_rules(axes: Axes, played: dict[str, Any]) -> None:
    """The error of each slice, as the judge knew it, in parts of its limit."""
    found: dict[str, list[tuple[float, float]]] = {}
    for at, rules in played["rules"]:
        for rule in rules:
            if rule["value"] is not None and rule["limit"] and "latency" not in rule["name"]:
                found.setdefault(rule["name"], []).append((at, rule["value"] / rule["limit"]))
    for name, points in sorted(found.items()):
        axes.plot(*zip(*points, strict=True), marker=".", markersize=4, linewidth=1, label=name)
    axes.axhline(1, color=RED, linewidth=1)
    axes.text(1, 1.1, "limit", color=RED, fontsize=8, ha="right", transform=axes.get_yaxis_transform())
    axes.set_yscale("log")
    axes.set_ylim(0.0003, 20)
    axes.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    axes.set_ylabel("what pairs show,\nin parts of the limit")
    if found:
        axes.legend(loc="lower left", fontsize=8, frameon=False, ncols=3)


def _draw_latency(axes: Axes, played: dict[str, Any]) -> None:
    for q, color in ((50, BLUE), (99, ORANGE)):
        points = list(
            _by_period(played["answers"], lambda part, q=q: float(np.percentile([one["ms"] for one in part], q)))
        )
        axes.plot(*zip(*points, strict=True), color=color, linewidth=1, label=f"p{q} of 2 s")
    axes.set_yscale("log")
    axes.set_yticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    axes.set_ylabel("latency that\nusers saw, ms")
    axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)


def _by_period(answers: Iterable[dict[str, Any]], of: Any) -> Iterable[tuple[float, float]]:
    parts: dict[int, list[dict[str, Any]]] = {}
    for one in answers:
        if not one["failed"]:
            parts.setdefault(int(one["at"] // PERIOD_S), []).append(one)
    for period, part in sorted(parts.items()):
        yield (period + 0.5) * PERIOD_S, float(of(part))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("played", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(json.loads(options.played.read_text()), options.picture)


if __name__ == "__main__":
    main()
