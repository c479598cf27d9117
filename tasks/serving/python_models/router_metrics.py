"""What Triton's own `/metrics` tells of a router, as `enginegate_*`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import triton_python_backend_utils as pb_utils

TELL_EVERY_S = 1.0
# A call of a metric costs a message between two processes: counts are gathered, and told together.
COUNTERS = {
    "requests": "Requests answered, by plan",
    "calls": "Calls of a plan, by the samples in them (the next power of two)",
    "elements": "Elements of inputs that plans were called with",
    "padding": "Of them, those that were added as padding",
    "errors": "Requests that were answered with an error, by what was at fault",
    "sampled": "Samples that the reservoir took, of which later ones may take the place",
    "sampling_errors": "Samples or shards that could not be kept or written",
    "rollout_requests": "Requests of a rollout, by the arm that was to answer them",
    "rollout_errors": "Of them, those that the arm failed, by kind; production answered in the canary's place",
    "rollout_mirrored": "Requests that were asked a second time, by the arm that was asked",
    "rollout_lost_pairs": "Requests that were to be mirrored, and were not",
    "rollout_absent": "Requests of a canary whose model was not loaded, which production answered",
    "rollout_writing_errors": "Files of evidence that could not be written",
}
GAUGES = {
    "route_move": "Number of the channel's move that is served",
    "rollout_step": "Number of the rollout's step that is followed; 0 without a rollout",
    "rollout_weight": "Percent of the traffic that the canary is to answer",
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What Triton's own `/metrics` tells of the router, as `enginegate_*`."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._families = {
            name: pb_utils.MetricFamily(
                name=f"enginegate_{name}_total", description=text, kind=pb_utils.MetricFamily.COUNTER
            )
            for name, text in COUNTERS.items()
        }
        self._gauges = {
            name: pb_utils.MetricFamily(name=f"enginegate_{name}", description=text, kind=pb_utils.MetricFamily.GAUGE)
            for name, text in GAUGES.items()
        }
        # A family must be kept: where Python forgets it, its metric counts no more.
        self._shown = {name: family.Metric(labels={"model": model}) for name, family in self._gauges.items()}
        self._lock = threading.Lock()
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._counted: Counter[tuple[str, Labels]] = Counter()
        self._told = 0.0

    def count(self, name: str, number: int = 1, **labels: str) -> None:
        """Count, to be told later; in any thread."""
        with self._lock:
            self._counted[name, tuple(labels.items())] += number

    def show(self, name: str, value: float) -> None:
        """Show the value of a gauge."""
        self._shown[name].set(value)

    def tell(self, *, at_once: bool = False) -> None:
        """Tell the server what was counted, unless that was done in this second."""
        if not at_once and time.monotonic() - self._told < TELL_EVERY_S:
            return
        with self._lock:
            counted, self._counted = self._counted, Counter()
        for (name, labels), number in counted.items():
            if (name, labels) not in self._metrics:
                every = {"model": self._model, **dict(labels)}
                self._metrics[name, labels] = self._families[name].Metric(labels=every)
            self._metrics[name, labels].increment(number)
        self._told = time.monotonic()
