"""What metrics can be at worst where outputs keep to a range: a limit there is met by everything."""

from math import inf

from validation.outputs import OutputKind, OutputSpec

IN_UNIT = frozenset({"mae", "rmse", "max_abs", "p99_abs", "bias", "wasserstein", "mae_drop"})
"""Metrics in the output's own unit: two values of a range differ by its span at most."""


def worst_in_range(metric: str, spec: OutputSpec) -> float | None:
    """The worst value of a metric between any two outputs that keep to the range; None where there is no such bound.

    Probabilities have the range [0, 1]. Of values in [a, b] with a > 0, the error is at most b - a of a norm that is at
    least a, and the cosine is at least 2ab / (a² + b²) (Pólya and Szegő 1925, problem 92).

    >>> worst_in_range("mae", OutputSpec(kind=OutputKind.SCORE, low=1, high=6))
    5.0
    """
    low, high = (0.0, 1.0) if spec.kind is OutputKind.PROBABILITIES else (spec.low, spec.high)
    if low is None or high is None:
        return None
    if metric in IN_UNIT:
        return float(high - low)
    near, far = sorted((abs(low), abs(high)))
    if low < 0 < high:
        return None
    if metric == "cosine":
        return 2 * near * far / (near**2 + far**2)
    if metric in {"relative_l2", "relative_l2_p99"}:
        return (far - near) / near if near else inf
    return None
