"""A second opinion on verdicts, in plain numpy and without the package `validation`.

It knows the default limits by heart, computes what they limit from the outputs of both sides, and speaks only where it
is sure: `beyond` names what an engine cannot be let through with, `within` says that nothing is near its limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Shards = Sequence[Mapping[str, "Array"]]

Array = np.ndarray[Any, Any]
ERRORS = 3.0
"""Standard errors between a mean and its limit from which on the matter is clear."""
FACTOR = 2.0
"""The same for what has no standard error of its own: a quantile, or the distance of two distributions."""
PRECISIONS = ("fp16", "int8")
NEIGHBOURS, TOP, HALF = 10, 5, 0.5


@dataclass(frozen=True)
class Loss:
    """How far a candidate is from the reference in one respect, and how far it may be; `error` is one of a mean."""

    name: str
    value: float
    allowed: float
    error: float | None

    @property
    def is_beyond(self) -> bool:
        """Whether it is clearly more than is allowed; a NaN is."""
        if self.error is None:
            return not self.value <= FACTOR * self.allowed
        return not self.value - ERRORS * self.error <= self.allowed

    @property
    def is_within(self) -> bool:
        """Whether it is clearly less."""
        if self.error is None:
            return self.value < self.allowed / FACTOR
        return self.value + ERRORS * self.error < self.allowed

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.2g}"
        return f"{self.name} {self.value:.4g}{error}, allowed {self.allowed:g}"


@dataclass(frozen=True)
class Opinion:
    """What is lost in each output."""

    losses: tuple[Loss, ...]

    @property
    def beyond(self) -> tuple[Loss, ...]:
        """What is clearly too much."""
        return tuple(loss for loss in self.losses if loss.is_beyond)

    @property
    def is_within(self) -> bool:
        """Whether all is clearly allowed."""
        return bool(self.losses) and all(loss.is_within for loss in self.losses)

    def objection(self, outcome: str) -> str:
        """Why `outcome` cannot be right; empty where it can."""
        if self.beyond and outcome != "fail":
            return f"{outcome}, though " + "; ".join(map(str, self.beyond))
        if self.is_within and outcome == "fail":
            return "fail, though " + "; ".join(map(str, self.losses))
        return ""


def judge(
    outputs: Mapping[str, Mapping[str, Any]], precision: str, sides: tuple[Shards, Shards], inputs: Shards
) -> Opinion:
    """The losses of each output, as model.yaml declares it, between the reference's shards and the candidate's."""
    losses: list[Loss] = []
    for name, declared in outputs.items():
        axis = declared.get("axis", -1)
        reference, candidate = ([np.moveaxis(shard[name], axis, -1) for shard in side] for side in sides)
        there = [np.ones(shard.shape[:2], dtype=bool) for shard in reference if shard.ndim > 2]
        if mask := declared.get("mask"):
            there = [shard[mask].astype(bool) for shard in inputs]
        counted = _joined(there) if mask or len({shard.shape[1:] for shard in reference}) > 1 else None
        measure, level = MEASURES[declared["kind"]], PRECISIONS.index(precision)
        losses += measure(_Pair(name, _joined(reference), _joined(candidate), counted, level, declared))
    return Opinion(tuple(losses))


def _joined(shards: list[Array]) -> Array:
    """All samples; shorter ones are filled up with zeros."""
    extents = [max(sizes) for sizes in zip(*(shard.shape[1:] for shard in shards), strict=True)]
    widths = [[(0, 0), *((0, most - own) for most, own in zip(extents, s.shape[1:], strict=True))] for s in shards]
    return np.concatenate([np.pad(shard, width) for shard, width in zip(shards, widths, strict=True)])


@dataclass(frozen=True)
class _Pair:
    name: str
    reference: Array
    candidate: Array
    counted: Array | None
    level: int
    declared: Mapping[str, Any]

    def mean(self, what: str, values: Array, *allowed: float) -> Loss:
        """Of `values` `[n, ...]`, a sample being one draw whatever its number of positions; masked ones do not count.

        The error is that of a ratio of sums (the linearised variance of Cochran 1977, chapter 6).
        """
        wide = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        weights = np.ones_like(wide) if self.counted is None or wide.shape[1] == 1 else self.counted.astype(np.float64)
        sums, sizes = (wide * weights).sum(1), weights.sum(1)
        value = sums.sum() / sizes.sum()
        error = (sums - value * sizes).std(ddof=1) / sizes.mean() / np.sqrt(len(sums))
        return Loss(f"{self.name} {what}", float(value), self._of_level(allowed), float(error))

    def point(self, what: str, value: float, *allowed: float) -> Loss:
        return Loss(f"{self.name} {what}", float(value), self._of_level(allowed), None)

    def _of_level(self, allowed: tuple[float, ...]) -> float:
        return allowed[min(self.level, len(allowed) - 1)]

    def by_sample(self, values: Array) -> Array:
        """Means over the positions that count, `[n]` or `[n, width]`."""
        if values.ndim == 1:
            return values
        flat = values.reshape(len(values), -1, *values.shape[2:]) if values.ndim > 1 else values
        if self.counted is None:
            return np.asarray(flat.mean(1))
        weights = self.counted.reshape(*self.counted.shape, *[1] * (flat.ndim - 2))
        return np.asarray((flat * weights).sum(1) / weights.sum(1))


def _scores(pair: _Pair) -> Iterator[Loss]:
    low, high = pair.declared["range"]
    columns = [side.reshape(len(side), -1).T.astype(np.float64) for side in (pair.reference, pair.candidate)]
    for r, c in zip(*columns, strict=True):
        error, spread = (c - r) / (high - low), r.std(ddof=1)
        yield pair.mean("mean absolute error", np.abs(error), 0.0125, 0.02)
        bias = pair.mean("bias", error, 0.0125)
        yield Loss(bias.name, abs(bias.value), bias.allowed, bias.error)
        yield pair.point("99th percentile of errors", np.quantile(np.abs(error), 0.99), 0.05, 0.10)
        yield pair.point("the same in standard deviations", np.quantile(np.abs(c - r), 0.99) / spread, 0.1, 0.5)
        yield pair.point("median error in standard deviations", abs(np.median(c - r)) / spread, 0.05)
        yield pair.point("distance of distributions", _distance(r, c), 0.05)


def _classes(pair: _Pair) -> Iterator[Loss]:
    r, c = (_probabilities(side, pair.declared["kind"]) for side in (pair.reference, pair.candidate))
    yield pair.mean("disagreement", r.argmax(-1) != c.argmax(-1), 0.015, 0.025)
    middle = (r + c) / 2
    yield pair.mean("Jensen-Shannon divergence", (_divergence(r, middle) + _divergence(c, middle)) / 2, 0.01, 0.02)
    sure = [pair.by_sample(side.max(-1)) for side in (r, c)]
    yield pair.point("distance of confidences", _distance(*sure), 0.05)


def _language(pair: _Pair) -> Iterator[Loss]:
    r, c = (_probabilities(side, "logits") for side in (pair.reference, pair.candidate))
    first = r.argmax(-1)
    rank = (c > np.take_along_axis(c, first[..., None], -1)).sum(-1)
    yield pair.mean("disagreement", first != c.argmax(-1), 0.015, 0.025)
    yield pair.mean("first one not among five", rank >= TOP, 0.01, 0.02)
    yield pair.mean("log perplexity ratio", _divergence(r, c), np.log(1.02), np.log(1.05))


def _vectors(pair: _Pair) -> Iterator[Loss]:
    r, c = (side.astype(np.float64) for side in (pair.reference, pair.candidate))
    lengths = np.linalg.norm(r, axis=-1) * np.linalg.norm(c, axis=-1)
    same = 1.0 * (r == c).all(axis=-1)  # of vectors without a direction: those that fill up shorter samples are zero
    angle = 1 - np.where(lengths > 0, (r * c).sum(-1) / np.where(lengths > 0, lengths, 1), same)
    yield pair.mean("1 - cosine", angle, 0.025)
    yield pair.point("the same of the worst 1 %", np.quantile(pair.by_sample(angle), 0.99), 0.005, 0.05)
    near = [_neighbours(pair.by_sample(side) if side.ndim > 2 else side) for side in (r, c)]
    kept = [len({*a} & {*b}) / NEIGHBOURS for a, b in zip(*near, strict=True)]
    yield Loss(f"{pair.name} lost neighbours", 1 - np.mean(kept), 0.1, 2 * np.std(kept) / np.sqrt(len(kept)))


def _tensors(pair: _Pair) -> Iterator[Loss]:
    r, c = (side.reshape(len(side), -1).astype(np.float64) for side in (pair.reference, pair.candidate))
    size, lost = np.linalg.norm(r), np.linalg.norm(c - r, axis=1)
    yield pair.point("relative error", np.linalg.norm(lost) / size, 0.5)
    yield pair.point("99th percentile of it", np.quantile(lost, 0.99) / (size / np.sqrt(len(r))), 0.05, 0.25)


def _labels(pair: _Pair) -> Iterator[Loss]:
    yield pair.mean("disagreement", pair.reference != pair.candidate, 0.015, 0.025)


def _maps(pair: _Pair) -> Iterator[Loss]:
    r, c = (side.argmax(-1).reshape(len(side), -1) for side in (pair.reference, pair.candidate))
    yield pair.mean("disagreement", r != c, 0.015, 0.025)
    both, either = np.zeros((2, len(r), pair.reference.shape[-1]))
    for number in range(pair.reference.shape[-1]):
        both[:, number] = ((r == number) & (c == number)).sum(1)
        either[:, number] = ((r == number) | (c == number)).sum(1)
    there = either > 0
    overlap = np.where(there, both / np.maximum(either, 1), 0).sum(1) / there.sum(1)
    yield pair.mean("1 - intersection over union", 1 - overlap, 0.02, 0.05)


def _texts(pair: _Pair) -> Iterator[Loss]:
    r, c = (side.argmax(-1) for side in (pair.reference, pair.candidate))
    yield pair.mean("disagreement", r != c, 0.015, 0.025)
    blank = pair.declared.get("blank", 0)
    counted = np.ones(r.shape, dtype=bool) if pair.counted is None else pair.counted
    texts = [[_read(row[there], blank) for row, there in zip(side, counted, strict=True)] for side in (r, c)]
    edits = [_edits(a, b) / max(len(a), len(b), 1) for a, b in zip(*texts, strict=True)]
    yield pair.mean("edits", np.array(edits), 0.02, 0.05)


def _boxes(pair: _Pair) -> Iterator[Loss]:
    """Boxes from the threshold on, each found again where one of its class overlaps by half and none took it."""
    least = pair.declared.get("threshold", 0.5)
    kept = [[row[row[:, 4] >= least] for row in side.astype(np.float64)] for side in (pair.reference, pair.candidate)]
    matched = [_matches(r, c) for r, c in zip(*kept, strict=True)]
    sizes = [len(r) + len(c) for r, c in zip(*kept, strict=True)]
    for what, worth, allowed in (
        ("F1 of boxes", np.ceil, (0.02, 0.05)),
        ("quality of boxes", np.asarray, (0.05, 0.10)),
    ):
        lost = [1 - 2 * worth(own).sum() / size if size else 0.0 for own, size in zip(matched, sizes, strict=True)]
        yield pair.mean(f"1 - {what}", np.array(lost), *allowed)


MEASURES: Mapping[str, Callable[[_Pair], Iterator[Loss]]] = {
    "score": _scores,
    "logits": _classes,
    "probabilities": _classes,
    "language": _language,
    "embedding": _vectors,
    "tensor": _tensors,
    "labels": _labels,
    "segmentation": _maps,
    "ctc": _texts,
    "boxes": _boxes,
}


def _probabilities(values: Array, kind: str) -> Array:
    """Each row sums to one, which in half precision it does not of itself."""
    wide = values.astype(np.float64)
    if kind == "probabilities":
        return np.asarray(wide / wide.sum(-1, keepdims=True))
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _divergence(p: Array, q: Array) -> Array:
    """Kullback and Leibler's, in nats, over the last axis."""
    tiny = np.finfo(np.float64).tiny
    return np.asarray((p * (np.log(p + tiny) - np.log(q + tiny))).sum(-1))


def _distance(a: Array, b: Array) -> float:
    """The largest difference of the two empirical distributions (Smirnov 1948)."""
    every = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(side), every, side="right") / len(side) for side in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def _neighbours(vectors: Array) -> Array:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    return np.asarray(np.argsort(-near, axis=1)[:, :NEIGHBOURS])


def _read(frames: Array, blank: int) -> list[int]:
    """The symbols of frames, one where it is repeated, none where it is blank."""
    new = [symbol for place, symbol in enumerate(frames) if place == 0 or symbol != frames[place - 1]]
    return [int(symbol) for symbol in new if symbol != blank]


def _edits(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for place, left in enumerate(a, 1):
        before, row[0] = row[0], place
        for column, right in enumerate(b, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (left != right))
    return row[-1]


def _matches(reference: Array, candidate: Array) -> Array:
    """The overlaps of boxes that match, the surest first."""
    left, found = list(range(len(reference))), []
    for box in candidate[np.argsort(-candidate[:, 4])]:
        overlaps = [_overlap(box, reference[at]) for at in left]
        if overlaps and max(overlaps) >= HALF:
            found.append(max(overlaps))
            left.pop(int(np.argmax(overlaps)))
    return np.array(found)


def _overlap(a: Array, b: Array) -> float:
    """Intersection over union of boxes of one class."""
    if not np.array_equal(a[5:], b[5:]):
        return 0.0
    sides = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    both = sides.clip(min=0).prod()
    return float(both / ((a[2:4] - a[:2]).prod() + (b[2:4] - b[:2]).prod() - both))
