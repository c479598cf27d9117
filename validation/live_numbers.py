"""What a rule asks of each pair of answers: numbers in a range whose mean must not be beyond a limit.

Most metrics are means or quantiles. That a quantile is at most a limit is to say that at most a certain share lies
beyond it. So each rule becomes one or a few questions of one form, which `betting` can answer at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from validation import statistics
from validation.classes import CONFIDENCE_RESOLUTION, TOP
from validation.elements import Numbers, element_sums, row_sums
from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.rules import Rule
from validation.units import Floats

CLIP = 20.0
"""Where an output has no range, an error counts up to so many limits; that larger ones are rare is asked apart."""
RARE = 0.01
"""So large a share may be beyond that: one in a hundred, as the gate has it."""
THRESHOLDS = 64
"""Of `ks`: where distributions are compared, at quantiles of production's first answers."""
_CLASSES = frozenset({OutputKind.LOGITS, OutputKind.PROBABILITIES})


@dataclass(frozen=True)
class Question:
    """Whether the mean of numbers in `[low, high]` is at most `limit`.

    Where it does not bind, a mean beyond the limit breaks no rule, though one within it has to be shown. The numbers of
    a `whole` one are -1, 0 or 1.
    """

    low: float
    high: float
    limit: float
    binds: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Scale:
    """What production's first answers tell of an output, or of a column of it.

    `deviation` is their standard deviation, `norm` the root mean square of their norms, and `thresholds` the quantiles
    of what `ks` compares.
    """

    deviation: float
    norm: float
    thresholds: Floats


class Answers:
    """Pairs of answers of one output, or of one column of a score: both sides `[n, ...]`, n at least 1."""

    def __init__(self, spec: OutputSpec, reference: Numbers, candidate: Numbers) -> None:
        self._spec = spec
        self.r, self.c = reference, candidate
        self._r = reference.reshape(len(reference), -1).astype(np.float64)
        self._c = candidate.reshape(len(candidate), -1).astype(np.float64)

    @cached_property
    def _sums(self) -> tuple[Mapping[str, Floats], Floats]:
        return element_sums(self._r, self._c, None)

    def mean(self, name: str) -> Floats:
        """The mean over a sample's elements of what `element_sums` adds up."""
        return np.asarray(self._sums[0][name] / self._sums[0]["elements"])

    @property
    def largest(self) -> Floats:
        """The largest absolute error of each sample."""
        return self._sums[1]

    @property
    def error(self) -> Floats:
        """Candidate minus reference, the mean over a sample's elements."""
        return np.asarray((self._c - self._r).mean(axis=1))

    @property
    def norms(self) -> Floats:
        """The norms of the error, `[n]`."""
        return np.sqrt(self._sums[0]["squares"])

    @cached_property
    def _logs(self) -> tuple[Floats, Floats]:
        wide = tuple(_two_classes(side, self._spec) for side in (self.r, self.c))
        normalise = statistics.log_softmax if self._spec.kind is OutputKind.LOGITS else statistics.log_probabilities
        return np.asarray(normalise(wide[0])), np.asarray(normalise(wide[1]))

    @property
    def kl(self) -> Floats:
        """KL(reference || candidate) in nats, the mean over a sample's positions."""
        return _per_sample(statistics.categorical_kl(*self._logs))

    @property
    def js(self) -> Floats:
        """Jensen-Shannon divergence in nats, as `kl`."""
        return _per_sample(statistics.jensen_shannon(*self._logs))

    def top(self, k: int) -> Floats:
        """The share of a sample's positions at which the reference's class is not among the candidate's first k."""
        r, c = self._logs
        first = r.argmax(axis=-1)[..., None]
        own = np.take_along_axis(c, first, axis=-1)
        before = np.arange(c.shape[-1]) < first
        rank = ((c > own) | ((c == own) & before)).sum(axis=-1)
        return _per_sample((rank >= k).astype(np.float64))

    @property
    def turned(self) -> Floats:
        """1 minus the cosine of a sample's vectors, the mean over them: 0 to 2."""
        r, c = (side.reshape(len(side), -1, side.shape[-1]).astype(np.float64) for side in (self.r, self.c))
        lengths = np.sqrt((r * r).sum(axis=-1)) * np.sqrt((c * c).sum(axis=-1))
        zero = lengths == 0
        cosines = (r * c).sum(axis=-1) / np.where(zero, 1.0, lengths)
        both = zero & ~r.any(axis=-1) & ~c.any(axis=-1)
        return _per_sample(1.0 - np.where(both, 1.0, np.where(zero, 0.0, np.clip(cosines, -1.0, 1.0))))

    @property
    def distributed(self) -> tuple[Floats, Floats]:
        """What `ks` compares: a score, or the confidence of the first class, a small move of which counts as none."""
        if self._spec.kind not in _CLASSES:
            return self._r.mean(axis=1), self._c.mean(axis=1)
        r, c = (_per_sample(np.exp(side.max(axis=-1))) for side in self._logs)
        return r, np.where(np.abs(c - r) <= CONFIDENCE_RESOLUTION, r, c)

    @property
    def reference_squares(self) -> Floats:
        """The squared norms of the reference, `[n]`."""
        return self._sums[0]["reference_squares"]


Asked = tuple[tuple[Question, ...], Callable[[Answers], list[Floats]]]
"""Questions, and what gives the numbers of each, `[n]`."""


def columns_of(spec: OutputSpec, reference: Numbers, candidate: Numbers, most: int) -> list[Answers]:
    """The answers of each column of a score that has at most so many, else of the whole output."""
    flat = [side.reshape(len(side), -1) for side in (reference, candidate)]
    if spec.kind is not OutputKind.SCORE or not 1 < flat[0].shape[1] <= most:
        return [Answers(spec, reference, candidate)]
    return [Answers(spec, flat[0][:, column], flat[1][:, column]) for column in range(flat[0].shape[1])]


def scale_of(parts: Sequence[Answers]) -> Scale:
    """What answers of production tell, of one column; parts may differ in shape."""
    values = np.concatenate([part.distributed[0] for part in parts])
    squares = np.concatenate([part.reference_squares for part in parts])
    return Scale(
        deviation=float(values.std()),
        norm=float(np.sqrt(squares.mean())),
        thresholds=np.unique(np.quantile(values, (np.arange(THRESHOLDS) + 0.5) / THRESHOLDS)),
    )


def is_live(rule: Rule, spec: OutputSpec) -> bool:
    """Whether a rule can be asked of each pair by itself."""
    return rule.metric in _METHODS and spec.kind in _METHODS[rule.metric][0]


def needs_scale(rule: Rule) -> bool:
    """Whether its questions depend on what production's first answers tell."""
    return rule.metric in _SCALED


def ask(rule: Rule, spec: OutputSpec, scale: Scale | None) -> Asked:
    """The questions of a rule, and how their numbers are made."""
    return _METHODS[rule.metric][1](rule.limit, spec, scale)


def _two_classes(values: Numbers, spec: OutputSpec) -> Floats:
    wide = values.astype(np.float64)
    wide = wide.reshape(len(wide), -1, wide.shape[-1] if wide.ndim > 1 else 1)
    if wide.shape[-1] > 1:
        return np.asarray(wide)
    return np.concatenate([np.zeros_like(wide) if spec.kind is OutputKind.LOGITS else 1.0 - wide, wide], axis=-1)


def _per_sample(positions: Numbers) -> Floats:
    flat = positions.reshape(len(positions), -1).astype(np.float64)
    return np.asarray(row_sums(flat) / flat.shape[1])


def _mean(limit: float, most: float | None, clip: float, numbers: Callable[[Answers], Floats]) -> Asked:
    """A mean of what is 0 or more; without a most, clipped, and beside it how rare what is clipped is."""
    if most is not None:
        return (Question(0.0, max(most, 2 * limit), limit),), lambda a: [numbers(a)]
    top = clip * limit
    questions = (Question(0.0, top, limit), Question(0.0, 1.0, RARE, binds=False))
    return questions, lambda a: [np.minimum(found := numbers(a), top), _flags(~(found <= top))]


def _beyond(share: float, numbers: Callable[[Answers], Numbers]) -> Asked:
    return (Question(0.0, 1.0, share),), lambda a: [_flags(numbers(a))]


def _flags(found: Numbers) -> Floats:
    return np.asarray(found, dtype=np.float64)


def _signed(limit: float, spec: OutputSpec) -> Asked:
    most = CLIP * limit if spec.span is None else max(spec.span, 2 * limit)
    both = (Question(-most, most, limit), Question(-most, most, limit))
    if spec.span is not None:
        return both, lambda a: [a.error, -a.error]
    questions = (*both, Question(0.0, 1.0, RARE, binds=False))
    return questions, lambda a: [
        np.clip(a.error, -most, most),
        np.clip(-a.error, -most, most),
        _flags(~(np.abs(a.error) <= most)),
    ]


def _median(limit: float, scale: Scale | None) -> Asked:
    far = limit * _scale(scale).deviation
    half = Question(0.0, 1.0, 0.5)
    return (half, half), lambda a: [_flags(a.error > far), _flags(a.error < -far)]


def _ks(limit: float, scale: Scale | None) -> Asked:
    thresholds = _scale(scale).thresholds

    def numbers(answers: Answers) -> list[Floats]:
        r, c = answers.distributed
        moved = [(r <= each).astype(np.float64) - (c <= each) for each in thresholds]
        return [sign * each for each in moved for sign in (1.0, -1.0)]

    return (Question(-1.0, 1.0, limit, whole=True),) * (2 * len(thresholds)), numbers


def _scale(scale: Scale | None) -> Scale:
    assert scale is not None  # noqa: S101 - `needs_scale` says so
    return scale


def _p99(metric: str) -> float:
    quantile = METRICS[metric].quantile
    assert quantile is not None  # noqa: S101 - those of the table have one
    return round(1 - quantile, 12)


_SCORE, _VECTORS, _TENSORS = (frozenset({kind}) for kind in (OutputKind.SCORE, OutputKind.EMBEDDING, OutputKind.TENSOR))
_NUMERIC = _SCORE | _VECTORS | _TENSORS | _CLASSES
_SCALED = frozenset({"p99_sd", "median_sd", "ks", "relative_l2_p99"})
_Method = Callable[[float, OutputSpec, Scale | None], Asked]
_METHODS: Mapping[str, tuple[frozenset[OutputKind], _Method]] = MappingProxyType(
    {
        "mae": (_NUMERIC, lambda limit, spec, _: _mean(limit, spec.span, CLIP, lambda a: a.mean("abs"))),
        "rmse": (
            _NUMERIC,
            lambda limit, spec, _: _mean(
                limit**2, None if spec.span is None else spec.span**2, CLIP, lambda a: a.mean("squares")
            ),
        ),
        "bias": (_SCORE, lambda limit, spec, _: _signed(limit, spec)),
        "p99_abs": (_NUMERIC, lambda limit, _, __: _beyond(_p99("p99_abs"), lambda a: a.largest > limit)),
        "p99_sd": (
            _SCORE,
            lambda limit, _, scale: _beyond(_p99("p99_sd"), lambda a: a.largest > limit * _scale(scale).deviation),
        ),
        "median_sd": (_SCORE, lambda limit, _, scale: _median(limit, scale)),
        "relative_l2_p99": (
            _TENSORS,
            lambda limit, _, scale: _beyond(_p99("relative_l2_p99"), lambda a: a.norms > limit * _scale(scale).norm),
        ),
        "ks": (_SCORE | _CLASSES, lambda limit, _, scale: _ks(limit, scale)),
        "kl": (_CLASSES, lambda limit, _, __: _mean(limit, None, CLIP, lambda a: a.kl)),
        "js": (_CLASSES, lambda limit, _, __: _mean(limit, float(np.log(2)), CLIP, lambda a: a.js)),
        "kl_p99": (_CLASSES, lambda limit, _, __: _beyond(_p99("kl_p99"), lambda a: a.kl > limit)),
        "top1_agreement": (_CLASSES, lambda limit, _, __: _mean(1 - limit, 1.0, CLIP, lambda a: a.top(1))),
        "top5_agreement": (_CLASSES, lambda limit, _, __: _mean(1 - limit, 1.0, CLIP, lambda a: a.top(TOP))),
        "cosine": (_VECTORS, lambda limit, _, __: _mean(1 - limit, 2.0, CLIP, lambda a: a.turned)),
        "cosine_p1": (_VECTORS, lambda limit, _, __: _beyond(0.01, lambda a: 1 - a.turned < limit)),
        "agreement": (
            frozenset({OutputKind.LABELS}),
            lambda limit, _, __: _mean(1 - limit, 1.0, CLIP, lambda a: _per_sample((a.r != a.c).reshape(len(a.r), -1))),
        ),
    }
)
