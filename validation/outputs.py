"""What kind of numbers a model's output holds, which decides what can be measured on it."""

from dataclasses import dataclass
from enum import Enum
from math import isfinite


class OutputKind(str, Enum):
    """The meaning of an output's numbers; the first axis is always the samples."""

    SCORE = "score"
    """One number per sample, or a few columns of them, `[n]` or `[n, columns]`; every column is judged on its own."""
    LOGITS = "logits"
    """Unnormalised log-probabilities of classes; `[n]` or `[n, 1]` is the logit of one of two classes."""
    PROBABILITIES = "probabilities"
    """Probabilities of classes; `[n]` or `[n, 1]` is the probability of one of two classes."""
    EMBEDDING = "embedding"
    """A vector per sample (or per position) whose direction and length carry the meaning."""
    TENSOR = "tensor"
    """Any other array of numbers with a fraction."""
    LABELS = "labels"
    """Whole numbers, or true and false, each of which names something: they are equal or not."""
    MULTILABEL = "multilabel"
    """A score for each of several labels, every one of which holds where its score is at the threshold or above."""
    SEGMENTATION = "segmentation"
    """The class of each position: logits or probabilities of the classes, or a map of their numbers."""
    BOXES = "boxes"
    """Found objects, `[n, boxes, 5 or 6]`: left, top, right, bottom, score and class."""
    CTC = "ctc"
    """Logits or probabilities of the symbols of each frame, among them the blank, whose greedy text counts."""
    LANGUAGE = "language"
    """Logits of the next token at each position, `[n, positions, vocabulary]`."""


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """One output: its kind and, where declared, the closed interval `[low, high]` that its values live in.

    `mask` names an array, `[n]` or `[n, positions]`, that is zero where the output belongs to padding. `axis` is the
    one that holds the classes, `threshold` the score from which on a label or a box holds (0.5 unless given), and
    `blank` the number of CTC's blank (0 unless given). `kinds` says which kind takes which.

    Raises:
        ValueError: when only one of `low` and `high` is given, or they are not finite and in order, or when a score
            has a mask.
    """

    kind: OutputKind
    low: float | None = None
    high: float | None = None
    mask: str | None = None
    axis: int | None = None
    threshold: float | None = None
    blank: int | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.kind is OutputKind.SCORE:
            raise ValueError(f"mask: a score has no positions for {self.mask} to leave out; remove it")
        if (self.low is None) != (self.high is None):
            raise ValueError("range: one end is missing; give both low and high, or neither")
        if self.low is None or self.high is None:
            return
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ValueError(f"range: [{self.low}, {self.high}] is no interval; give two finite numbers, low < high")

    @property
    def ends(self) -> tuple[float, float] | None:
        """`(low, high)`, or None where no range is declared."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def span(self) -> float | None:
        """`high - low`, in the output's own unit, or None where no range is declared."""
        return None if self.low is None or self.high is None else self.high - self.low
