"""Engines that are wrong in known ways: pairs of reference and candidate outputs, as many as asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from validation.bootstrap import Bootstrap
from validation.classes import ClassAgreement
from validation.scores import ScoreColumn
from validation.vectors import EmbeddingAgreement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.random import Generator
    from numpy.typing import NDArray

    from validation.accumulators import Accumulator

    Floats = NDArray[np.float64]
    Candidate = Callable[[Generator, Floats], Floats]

CLASSES, DIMENSIONS = 20, 16
_FEW, _FEWER = 0.05, 0.01


@dataclass(frozen=True)
class Kind:
    """A kind of output: the metrics that can have a limit, how an engine is wrong, and what measures it.

    Samples are drawn `samples_each` at a time, and n counts such clusters.
    """

    metrics: tuple[str, ...]
    engines: Mapping[str, Candidate]
    reference: Callable[[Generator, int], Floats]
    label: Callable[[Generator, Floats], NDArray[np.generic]] | None
    accumulator: Callable[[], Accumulator]
    plan: Bootstrap = field(default_factory=Bootstrap)
    samples_each: int = 1

    def measured(self, engine: str, generator: Generator, n: int) -> Accumulator:
        """An accumulator that has seen `n` samples (or clusters) of an engine, in float32 as engines yield them."""
        reference = self.reference(generator, n * self.samples_each)
        candidate = self.engines[engine](generator, reference)
        label = None if self.label is None else self.label(generator, reference)
        found = self.accumulator()
        found.update(reference.astype(np.float32), candidate.astype(np.float32), label=label, mask=None)
        return found


def _rows(share: float, generator: Generator, values: Floats) -> NDArray[np.bool_]:
    chosen = generator.random(len(values)) < share
    return chosen.reshape((-1,) + (1,) * (values.ndim - 1))


def _noise(generator: Generator, values: Floats, scale: float | Floats) -> Floats:
    return scale * generator.standard_normal(values.shape)


SCORES: Mapping[str, Candidate] = {
    "normal noise": lambda g, r: r + _noise(g, r, 0.03),
    "Laplace noise": lambda g, r: r + g.laplace(scale=0.02, size=r.shape),
    "shift and noise": lambda g, r: r + 0.02 + _noise(g, r, 0.02),
    "noise grows with the score": lambda g, r: r + _noise(g, r, 0.06 * r),
    "5 % with large errors": lambda g, r: (
        r + _noise(g, r, 0.005) + _rows(_FEW, g, r) * g.normal(loc=0.1, scale=0.1, size=r.shape)
    ),
    "1 % wrong by the range": lambda g, r: r + _noise(g, r, 0.005) + _rows(_FEWER, g, r),
}

LOGITS: Mapping[str, Candidate] = {
    "normal noise": lambda g, r: r + _noise(g, r, 0.7),
    "Laplace noise": lambda g, r: r + g.laplace(scale=0.5, size=r.shape),
    "sharper, and noise": lambda g, r: 1.25 * r + _noise(g, r, 0.3),
    "noise grows with the confidence": lambda g, r: r + _noise(g, r, 0.15 * r.max(axis=1, keepdims=True)),
    "5 % with large errors": lambda g, r: r + _noise(g, r, 0.1) + _rows(_FEW, g, r) * _noise(g, r, 3.0),
    "1 % with classes moved": lambda g, r: np.where(_rows(_FEWER, g, r), np.roll(r, 1, axis=1), r) + _noise(g, r, 0.1),
}

EMBEDDINGS: Mapping[str, Candidate] = {
    "normal noise": lambda g, r: r + _noise(g, r, 0.1),
    "Laplace noise": lambda g, r: r + g.laplace(scale=0.07, size=r.shape),
    "shift and noise": lambda g, r: r + 0.1 + _noise(g, r, 0.1),
    "noise grows with the length": lambda g, r: (
        r + _noise(g, r, 0.025 * np.sqrt((r * r).sum(axis=1, keepdims=True)) ** 2 / 4)
    ),
    "5 % with large errors": lambda g, r: r + _noise(g, r, 0.05) + _rows(_FEW, g, r) * _noise(g, r, 1.0),
    "1 % turned round": lambda g, r: np.where(_rows(_FEWER, g, r), -r, r) + _noise(g, r, 0.05),
}


def _scores(generator: Generator, n: int) -> Floats:
    return np.asarray(1 / (1 + np.exp(-0.3 - generator.standard_normal(n))))


def _grades(generator: Generator, reference: Floats) -> Floats:
    """What raters say: one of six grades, near the reference's score."""
    return np.asarray(np.clip(np.round(5 * (reference + _noise(generator, reference, 0.12))), 0, 5) / 5)


def _classes(generator: Generator, reference: Floats) -> NDArray[np.int64]:
    """The right class: the reference is surer than it should be, as networks are."""
    gumbel = -np.log(generator.standard_exponential(reference.shape))
    return np.asarray((0.7 * reference + gumbel).argmax(axis=1))


KINDS: Mapping[str, Kind] = {
    "score": Kind(
        metrics=(
            *("mae", "rmse", "p99_abs", "relative_l2", "cosine", "bias", "pearson", "spearman", "ks", "wasserstein"),
            *("smd", "kl", "mae_drop", "qwk_drop"),
        ),
        engines=SCORES,
        reference=_scores,
        label=_grades,
        accumulator=lambda: ScoreColumn(with_label=True, keeps=True, ends=(0.0, 1.0)),
    ),
    "logits": Kind(
        metrics=("kl", "kl_p99", "js", "top1_agreement", "top5_agreement", "ks", "accuracy_drop", "ece_drop"),
        engines=LOGITS,
        reference=lambda g, n: 2.0 * g.standard_normal((n, CLASSES)),
        label=_classes,
        accumulator=lambda: ClassAgreement(logits=True, with_label=True, keeps=True),
    ),
    "embedding": Kind(
        metrics=("cosine", "cosine_p1", "retrieval_overlap@10"),
        engines=EMBEDDINGS,
        reference=lambda g, n: g.standard_normal((n, DIMENSIONS)) * np.linspace(1.5, 0.5, DIMENSIONS),
        label=None,
        accumulator=lambda: EmbeddingAgreement(keeps=True),
    ),
}
