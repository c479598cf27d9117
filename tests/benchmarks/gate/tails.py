"""Engines whose errors are rare, heavy-tailed or shared by clusters: what a bound must not be blind to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from gate.engines import DIMENSIONS, KINDS, Kind

from validation.bootstrap import Bootstrap, Draws
from validation.classes import ClassAgreement
from validation.scores import ScoreColumn
from validation.units import Columns, Units
from validation.vectors import TensorErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gate.engines import Candidate, Floats
    from numpy.random import Generator
    from numpy.typing import NDArray

CLUSTER = 8
"""Samples of a cluster: a power of two, as units are that join neighbours."""
_SHARES = (0.002, 0.005, 0.02)
_SIGMAS = (1.5, 2.5)


def _t(degrees: int, generator: Generator, shape: tuple[int, ...], scale: float) -> Floats:
    return np.asarray(scale * generator.standard_t(degrees, shape))


def _lognormal(sigma: float, generator: Generator, shape: tuple[int, ...], mean: float) -> Floats:
    """Of that mean, before an output's range cuts it."""
    return np.asarray(generator.lognormal(np.log(mean) - sigma * sigma / 2, sigma, shape))


def _noise(generator: Generator, values: Floats, scale: float) -> Floats:
    return scale * generator.standard_normal(values.shape)


def _rows(share: float, generator: Generator, values: Floats) -> NDArray[np.bool_]:
    return generator.random((len(values),) + (1,) * (values.ndim - 1)) < share


# Errors of a score in [0, 1]. Engines yield what the range allows, but those that are wrong by all of it, as ever.

_TAILS: Mapping[str, Callable[[Generator, tuple[int, ...]], Floats]] = {
    "t, 3 degrees": lambda g, shape: 0.005 + _t(3, g, shape, 0.02),
    "t, 2 degrees": lambda g, shape: 0.005 + _t(2, g, shape, 0.02),
    **{f"lognormal {sigma}": lambda g, shape, sigma=sigma: _lognormal(sigma, g, shape, 0.02) for sigma in _SIGMAS},  # type: ignore[misc]
}


def _ranged(tail: Callable[[Generator, tuple[int, ...]], Floats], generator: Generator, r: Floats) -> Floats:
    return np.clip(r + tail(generator, r.shape), 0.0, 1.0)


def _off_by_the_range(share: float, generator: Generator, r: Floats) -> Floats:
    return r + _noise(generator, r, 0.002) + _rows(share, generator, r)


def _at_the_other_end(share: float, generator: Generator, r: Floats) -> Floats:
    c = np.clip(r + _noise(generator, r, 0.002), 0.0, 1.0)
    return np.where(_rows(share, generator, r), r < np.median(r), c)


_SCORES: dict[str, Candidate] = {
    **{name: partial(_ranged, tail) for name, tail in _TAILS.items()},
    **{f"{100 * share:g} % wrong by the range": partial(_off_by_the_range, share) for share in _SHARES},
    **{f"{100 * share:g} % at the other end": partial(_at_the_other_end, share) for share in _SHARES},
}

# Scores without a range: nothing cuts their errors.

_WIDE_SCORES: dict[str, Candidate] = {
    "normal noise": lambda g, r: r + _noise(g, r, 0.1),
    "t, 3 degrees": lambda g, r: r + 0.05 + _t(3, g, r.shape, 0.05),
    "lognormal 1.5": lambda g, r: r + _lognormal(1.5, g, r.shape, 0.05),
    **{
        f"{100 * share:g} % upside down": lambda g, r, share=share: (  # type: ignore[misc]
            np.where(_rows(share, g, r), -r, r) + _noise(g, r, 0.01)
        )
        for share in _SHARES
    },
    **{
        f"{100 * share:g} % five deviations off": lambda g, r, share=share: (  # type: ignore[misc]
            r + 5 * _rows(share, g, r) + _noise(g, r, 0.01)
        )
        for share in _SHARES
    },
}

_LOGITS: dict[str, Candidate] = {
    "t, 2 degrees": lambda g, r: r + _t(2, g, r.shape, 0.1),
    **{
        f"lognormal {sigma}": lambda g, r, sigma=sigma: (  # type: ignore[misc]
            r + _lognormal(sigma, g, (len(r), 1), 1.0) * _noise(g, r, 0.3)
        )
        for sigma in _SIGMAS
    },
    **{
        f"{100 * share:g} % turned round": lambda g, r, share=share: (  # type: ignore[misc]
            np.where(_rows(share, g, r), -4 * r, r) + _noise(g, r, 0.02)
        )
        for share in _SHARES
    },
}

_VECTORS: dict[str, Candidate] = {
    "normal noise": lambda g, r: r + _noise(g, r, 0.1),
    "t, 2 degrees": lambda g, r: r + _t(2, g, (len(r), 1), 0.05) * _noise(g, r, 1.0),
    **{
        f"lognormal {sigma}": lambda g, r, sigma=sigma: (  # type: ignore[misc]
            r + np.minimum(_lognormal(sigma, g, (len(r), 1), 0.1), 2.0) * _noise(g, r, 1.0)
        )
        for sigma in _SIGMAS
    },
    **{
        f"{100 * share:g} % turned round": lambda g, r, share=share: (  # type: ignore[misc]
            np.where(_rows(share, g, r), -r, r) + _noise(g, r, 0.01)
        )
        for share in _SHARES
    },
}

# Clusters: samples of one share a part of their error, and a cluster is what is drawn.


def _of_clusters(errors: Callable[[Generator, int], Floats], generator: Generator, r: Floats) -> Floats:
    shared = np.repeat(errors(generator, len(r) // CLUSTER), CLUSTER)
    return np.clip(r + shared * (1 + _noise(generator, r, 0.2)) + _noise(generator, r, 0.002), 0.0, 1.0)


_CLUSTERS: dict[str, Candidate] = {
    name: partial(_of_clusters, errors)
    for name, errors in {
        "a shared shift": lambda g, n: 0.01 + 0.02 * g.standard_normal(n),
        "t, 2 degrees": lambda g, n: 0.005 + _t(2, g, (n,), 0.02),
        "lognormal 1.5": lambda g, n: _lognormal(1.5, g, (n,), 0.02),
        "lognormal 2.5": lambda g, n: _lognormal(2.5, g, (n,), 0.02),
        "0.5 % of clusters wrong": lambda g, n: 1.0 * (g.random(n) < _SHARES[1]),
        "2 % of clusters wrong": lambda g, n: 1.0 * (g.random(n) < _SHARES[2]),
    }.items()
}


class _Clustered(Units):
    """Units joined to one a cluster, where they are smaller."""

    def __init__(self, units: Units) -> None:
        joined = max(1, int(CLUSTER // units.sizes[0]))
        self._joined = {name: column.reshape(-1, joined).sum(axis=1) for name, column in units.sums.items()}
        self._joined_sizes = units.sizes.reshape(-1, joined).sum(axis=1)

    @property
    def sums(self) -> Columns:
        return self._joined

    @property
    def sizes(self) -> Floats:
        return self._joined_sizes


@dataclass(frozen=True, kw_only=True)
class ByCluster(Bootstrap):
    """A bootstrap of clusters of samples that came one after another."""

    def draw(self, units: Units, samples_each: float = CLUSTER) -> Draws:
        return Draws(_Clustered(units), self, samples_each)


def _clustered_scores(generator: Generator, n: int) -> Floats:
    shared = np.repeat(generator.standard_normal(n // CLUSTER), CLUSTER)
    return np.asarray(1 / (1 + np.exp(-0.3 - 0.8 * shared - 0.6 * generator.standard_normal(n))))


_OF_SCORES = ("mae", "p99_abs", "p99_sd", "bias", "pearson", "ks", "smd")

TAILS: Mapping[str, Kind] = {
    "score in [0, 1]": Kind(
        metrics=_OF_SCORES,
        engines={**KINDS["score"].engines, **_SCORES},
        reference=KINDS["score"].reference,
        label=None,
        accumulator=lambda: ScoreColumn(with_label=False, keeps=True, ends=(0.0, 1.0)),
    ),
    "score without a range": Kind(
        metrics=("relative_l2", "p99_sd", "pearson", "ks", "smd"),
        engines=_WIDE_SCORES,
        reference=lambda g, n: g.standard_normal(n),
        label=None,
        accumulator=lambda: ScoreColumn(with_label=False, keeps=True),
    ),
    "classes": replace(
        KINDS["logits"],
        metrics=("js", "top1_agreement", "ks"),
        engines={**KINDS["logits"].engines, **_LOGITS},
        label=None,
        accumulator=lambda: ClassAgreement(logits=True, with_label=False, keeps=True),
    ),
    "embeddings": replace(KINDS["embedding"], engines={**KINDS["embedding"].engines, **_VECTORS}),
    "tensors": Kind(
        metrics=("relative_l2", "relative_l2_p99", "cosine"),
        engines=_VECTORS,
        reference=lambda g, n: g.standard_normal((n, DIMENSIONS)),
        label=None,
        accumulator=lambda: TensorErrors(keeps=True),
    ),
    "clusters of scores": Kind(
        metrics=("mae", "bias", "pearson", "smd"),
        engines=_CLUSTERS,
        reference=_clustered_scores,
        label=None,
        accumulator=lambda: ScoreColumn(with_label=False, keeps=False, ends=(0.0, 1.0)),
        plan=ByCluster(),
        samples_each=CLUSTER,
    ),
}
"""More kinds, by name: the metrics that have a default limit."""
