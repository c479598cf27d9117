"""Outputs of embeddings, whose direction carries the meaning, and of any other tensors."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from validation.accumulators import (
    MASKED,
    Errors,
    Mask,
    Readers,
    Readings,
    drawn,
    quantile_reading,
    read,
    scaled_quantile,
    smooth,
)
from validation.bootstrap import Bootstrap
from validation.catalogue import Reading, undefined
from validation.elements import Numbers, element_sums, positions_of
from validation.groups import Members
from validation.reservoir import KeptSamples
from validation.units import Floats, units_of
from validation.unseen import Ends, turned_round

NEIGHBOURS = 10
LEAST_SEARCHED = 12
"""Fewer samples have no ten neighbours among which one could be lost."""
MOST_SEARCHED = 2048
"""Samples among which neighbours are looked for: the work grows with the square."""
_LOST = -1.0
"""What a sample adds that is somewhere else: all of its own neighbours are wrong, and it is missing among those of as
many others."""


class TensorErrors:
    """See `Accumulator`; both sides are `[n, ...]`, and `ends` are those of the declared range."""

    def __init__(self, *, keeps: bool, ends: Ends = None) -> None:
        self._errors = Errors(kept=("largest", "norm"), keeps=keeps)
        self._ends = ends

    def update(
        self,
        reference: Numbers,
        candidate: Numbers,
        *,
        label: Numbers | None = None,
        mask: Mask = None,
        members: Members | None = None,
    ) -> None:
        """Take in one batch; a label says nothing of a tensor."""
        del label
        sums, largest = element_sums(reference, candidate, mask)
        self._errors.add(sums, largest, {"norm": np.sqrt(sums["squares"])}, members)

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The metrics of any numeric output."""
        n = self._errors.samples
        if n == 0:
            return {}
        draws, possible = plan.draw(self._errors.units), turned_round(self._errors.units, self._ends)
        kept = self._errors.kept
        readers: Readers = {
            "relative_l2_p99": lambda: scaled_quantile(
                quantile_reading(kept, "norm", 0.99, plan),
                draws,
                lambda m: np.sqrt(m["reference_squares"]),
                "undefined: the reference is zero throughout",
                equal=self._errors.max_abs == 0,
            ),
            **self._errors.readers(draws, plan, possible=possible),
        }
        if draws.value(lambda m: m["elements"]) == 0:
            readers = dict.fromkeys(readers, lambda: undefined(n, MASKED))
        return read(readers, metrics)


class EmbeddingAgreement:
    """See `Accumulator`; both sides are `[n, dimensions]` or `[n, positions, dimensions]`.

    The cosine of a sample is the mean over its positions; neighbours are looked for by the mean vector. `ends` are
    those of the declared range.
    """

    def __init__(self, *, keeps: bool, ends: Ends = None) -> None:
        self._ends = ends
        self._errors = Errors(("angle", "vectors"), ("largest", "cosine"), keeps=keeps)
        self._keeps = keeps
        self._searched = KeptSamples(("r", "c"), MOST_SEARCHED)

    def update(
        self,
        reference: Numbers,
        candidate: Numbers,
        *,
        label: Numbers | None = None,
        mask: Mask = None,
        members: Members | None = None,
    ) -> None:
        """Take in one batch; a label says nothing of an embedding."""
        del label
        sums, largest = element_sums(reference, candidate, mask)
        n = len(reference)
        r, c = (side.reshape(n, -1, side.shape[-1] if side.ndim > 1 else 1) for side in (reference, candidate))
        counted = positions_of(mask, reference.shape)
        angle, vectors = np.zeros(n), counted.sum(axis=1).astype(np.float64)
        pooled: dict[str, Numbers] = {side: np.zeros((n, r.shape[2])) for side in "rc"}
        for sample in range(n):  # one at a time: a sample may be large
            wide = [side[sample][counted[sample]].astype(np.float64) for side in (r, c)]
            angle[sample] = _cosines(*wide).sum()
            for name, side in zip("rc", wide, strict=True):
                pooled[name][sample] = side.sum(axis=0) / max(len(side), 1)
        own = {"angle": angle, "vectors": vectors}
        self._errors.add({**sums, **own}, largest, {"cosine": angle / np.maximum(vectors, 1.0)}, members)
        if self._keeps:
            self._searched.add(pooled, members)

    def readings(self, plan: Bootstrap, metrics: Collection[str]) -> Readings:
        """The metrics of an embedding."""
        n = self._errors.samples
        if n == 0:
            return {}
        draws = plan.draw(self._errors.units)
        vectors = draws.value(lambda m: m["vectors"])
        opposite = {"angle": np.array([-vectors])}
        readers: Readers = {
            **self._errors.readers(draws, plan, possible=turned_round(self._errors.units, self._ends)),
            "cosine": lambda: smooth(draws, n, lambda m: m["angle"] / m["vectors"], MASKED, possible=opposite),
            "cosine_p1": lambda: quantile_reading(self._errors.kept, "cosine", 0.01, plan),
            "retrieval_overlap@10": lambda: self._overlap_reading(plan),
        }
        if vectors == 0:
            readers = dict.fromkeys(readers, lambda: undefined(n, MASKED))
        return read(readers, metrics)

    def _overlap_reading(self, plan: Bootstrap) -> Reading:
        r, c = (self._searched.column(side).astype(np.float64) for side in "rc")
        if len(r) < LEAST_SEARCHED:
            return undefined(len(r), f"undefined: {len(r)} samples are too few for {NEIGHBOURS} neighbours")
        value, terms = _overlap(_neighbours(r), _neighbours(c))
        found = smooth(
            plan.draw(units_of({"share": terms})),
            len(r),
            lambda m: np.clip(m["share"], 0.0, 1.0),
            possible={"share": np.array([_LOST])},
        )
        return Reading(value=value, n=found.n, interval=found.interval, note=drawn(self._searched))


def _cosines(r: Floats, c: Floats) -> Floats:
    """Cosine of each pair of vectors, `[vectors]`; two zero vectors agree, a zero vector and another do not."""
    lengths = np.sqrt((r * r).sum(axis=1)) * np.sqrt((c * c).sum(axis=1))
    zero = lengths == 0
    both = zero & ~r.any(axis=1) & ~c.any(axis=1)
    cosines = (r * c).sum(axis=1) / np.where(zero, 1.0, lengths)
    return np.asarray(np.where(both, 1.0, np.where(zero, 0.0, np.clip(cosines, -1.0, 1.0))))


def _neighbours(vectors: Floats) -> NDArray[np.int64]:
    """The nearest other samples of each sample by cosine, and one more, `[n, NEIGHBOURS + 1]`.

    Of equally near ones the lower number comes first.
    """
    lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    unit = vectors / np.where(lengths == 0, 1.0, lengths)
    near = np.einsum("id,jd->ij", unit, unit)  # no BLAS: its sums change with the number of cores
    np.fill_diagonal(near, -np.inf)
    return np.asarray(np.argsort(-near, axis=1, kind="stable")[:, : NEIGHBOURS + 1], dtype=np.int64)


def _overlap(reference: NDArray[np.int64], candidate: NDArray[np.int64]) -> tuple[float, Floats]:
    """The mean overlap of the neighbours, and numbers `[n]` of that mean which spread as it does between samples.

    Samples share neighbours, so their own overlaps hang together. What a sample adds is its own overlap and what the
    others' would lose or gain without it (the delete-one jackknife of Quenouille 1956, by the next neighbour in line).
    """
    shares = np.array([_shared(a, b) for a, b in zip(reference, candidate, strict=True)])
    terms = shares.copy()
    for sample, (a, b) in enumerate(zip(reference, candidate, strict=True)):
        for other in {*a[:NEIGHBOURS].tolist(), *b[:NEIGHBOURS].tolist()}:
            terms[other] += shares[sample] - _shared(a[a != other], b[b != other])
    value = float(shares.mean())
    return value, terms - terms.mean() + value


def _shared(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return len({*a[:NEIGHBOURS].tolist()} & {*b[:NEIGHBOURS].tolist()}) / NEIGHBOURS
