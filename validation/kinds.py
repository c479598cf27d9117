"""The kinds of outputs, a row each: what one has to hold, what measures it, and its default limits.

A new kind is a module with its metrics and its accumulator, a member of `OutputKind`, and a row here. docs/kinds.md
has the table for readers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from validation import boxes, ctc, labels, language, multilabel, segmentation
from validation.accumulators import Accumulator
from validation.catalogue import Metric
from validation.classes import ClassAgreement
from validation.elements import Numbers
from validation.outputs import OutputKind, OutputSpec
from validation.populations import MOST_COLUMNS, ScorePopulation
from validation.scores import ScoreColumn
from validation.vectors import EmbeddingAgreement, TensorErrors

DEFAULT_THRESHOLD, DEFAULT_BLANK = 0.5, 0
KEYS = ("axis", "threshold", "blank")
"""What only some kinds can be told beside a range and a mask."""
FLOATS, WHOLE = "f", "iub"
"""Kinds of numpy dtypes."""
SAMPLES_AND_CLASSES = 2
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Making:
    """What an accumulator is made for: the output, its first batch, and whether labels and samples are kept."""

    spec: OutputSpec
    first: Numbers
    width: int
    with_label: bool
    keeps: bool

    @property
    def threshold(self) -> float:
        """From which value on something holds."""
        return DEFAULT_THRESHOLD if self.spec.threshold is None else self.spec.threshold


@dataclass(frozen=True, kw_only=True)
class Default:
    """A default rule: limits for FP32, FP16 and INT8; without any, those of `top1_agreement`.

    With `by_slice` it holds twice as wide for each value of a slice, too.
    """

    metric: str
    limits: tuple[float, float, float] | None = None
    by_slice: bool = False


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A row. `holds` are the kinds of numpy dtypes, `axes` the fewest and the most (None: any number).

    `width` is what must be the same in every batch, `takes_label` whether labels of a shape fit outputs of another,
    after the classes have been moved to the last axis, which `has_classes` says there are. `are_names` says that
    elements are equal or not: then no difference between them has a size. `defaults` are empty where the limits depend
    on more than the precision (see `policy`).
    """

    shape: str
    holds: str
    axes: tuple[int, int | None]
    width: Callable[[Numbers], int]
    takes_label: Callable[[Shape, Shape], bool]
    make: Callable[[Making], list[Accumulator]]
    metrics: tuple[Metric, ...] = ()
    defaults: tuple[Default, ...] = ()
    keys: frozenset[str] = frozenset()
    has_classes: bool = False
    are_names: bool = False

    @property
    def holds_names(self) -> bool:
        """Whether whole numbers in it, where it may hold any, are names."""
        return self.are_names or (self.has_classes and "i" in self.holds)


def _one(_output: Numbers) -> int:
    return 1


def _last(output: Numbers) -> int:
    return output.shape[-1] if output.ndim > 1 else 1


def _columns(output: Numbers) -> int:
    return prod(output.shape[1:])


def _of_classes(output: Numbers) -> int:
    return 1 if output.dtype.kind in WHOLE else _last(output)


def _no_label(_label: Shape, _output: Shape) -> bool:
    return False


def _label_of_score(label: Shape, output: Shape) -> bool:
    lone = prod(output[1:]) == 1
    return label == output or (lone and label in {output[:1], (*output[:1], 1)})


def _label_of_positions(label: Shape, output: Shape) -> bool:
    if len(output) == 1:
        return label == output
    return label == output[:-1] or (prod(output[1:-1]) == 1 and label == output[:1])


def _label_of_elements(label: Shape, output: Shape) -> bool:
    return label == output or (prod(output[1:]) == 1 and label == output[:1])


def _label_of_map(label: Shape, output: Shape) -> bool:
    return label in {output, output[:-1]}


def _label_of_rows(label: Shape, output: Shape) -> bool:
    return len(label) == SAMPLES_AND_CLASSES and label[0] == output[0]


def _label_of_boxes(label: Shape, output: Shape) -> bool:
    return len(label) == len(output) and label[0] == output[0] and label[-1] == boxes.COLUMNS[0]


def _make_scores(made: Making) -> list[Accumulator]:
    ends, label, keeps = made.spec.ends, made.with_label, made.keeps
    if made.width > MOST_COLUMNS:
        return [ScorePopulation(with_label=label, keeps=keeps, ends=ends)]
    return [ScoreColumn(with_label=label, keeps=keeps, ends=ends) for _ in range(made.width)]


def _make_classes(made: Making) -> list[Accumulator]:
    logits = made.spec.kind is OutputKind.LOGITS
    return [ClassAgreement(logits=logits, with_label=made.with_label, keeps=made.keeps)]


def _make_map(made: Making) -> list[Accumulator]:
    classes = None if made.first.dtype.kind in WHOLE else made.width
    return [segmentation.MapAgreement(threshold=made.threshold, classes=classes, with_label=made.with_label)]


def _make_text(made: Making) -> list[Accumulator]:
    blank = DEFAULT_BLANK if made.spec.blank is None else made.spec.blank
    return [ctc.TextAgreement(blank=blank, with_label=made.with_label)]


_CLASSES = Kind(
    shape="[n], [n, classes], or more axes with `axis`",
    holds=FLOATS,
    axes=(1, None),
    width=_last,
    takes_label=_label_of_positions,
    make=_make_classes,
    keys=frozenset({"axis"}),
    has_classes=True,
)

KINDS: Mapping[OutputKind, Kind] = MappingProxyType(
    {
        OutputKind.SCORE: Kind(
            shape="[n] or [n, columns]",
            holds="fiu",
            axes=(1, None),
            width=_columns,
            takes_label=_label_of_score,
            make=_make_scores,
        ),
        OutputKind.LOGITS: _CLASSES,
        OutputKind.PROBABILITIES: _CLASSES,
        OutputKind.EMBEDDING: Kind(
            shape="[n, dimensions] or [n, positions, dimensions]",
            holds=FLOATS,
            axes=(1, None),
            width=_last,
            takes_label=_no_label,
            make=lambda made: [EmbeddingAgreement(keeps=made.keeps, ends=made.spec.ends)],
        ),
        OutputKind.TENSOR: Kind(
            shape="[n, ...]",
            holds=FLOATS,
            axes=(1, None),
            width=_one,
            takes_label=_no_label,
            make=lambda made: [TensorErrors(keeps=made.keeps, ends=made.spec.ends)],
        ),
        OutputKind.LABELS: Kind(
            shape="[n, ...] of whole numbers, or true and false",
            holds=WHOLE,
            axes=(1, None),
            width=_one,
            takes_label=_label_of_elements,
            make=lambda made: [labels.LabelAgreement(with_label=made.with_label)],
            metrics=labels.METRICS,
            defaults=(Default(metric="agreement", by_slice=True),),
            are_names=True,
        ),
        OutputKind.MULTILABEL: Kind(
            shape="[n, labels], or more axes with `axis`",
            holds=FLOATS,
            axes=(2, None),
            width=_last,
            takes_label=lambda label, output: label == output,
            make=lambda made: [
                multilabel.DecisionAgreement(threshold=made.threshold, with_label=made.with_label, keeps=made.keeps)
            ],
            metrics=multilabel.METRICS,
            defaults=(
                Default(metric="decision_agreement", by_slice=True),
                Default(metric="f1_agreement", limits=(0.99, 0.98, 0.95)),
            ),
            keys=frozenset({"axis", "threshold"}),
            has_classes=True,
        ),
        OutputKind.SEGMENTATION: Kind(
            shape="[n, ..., classes] or [n, classes, ...] with `axis`, or a map [n, ...] of whole numbers",
            holds=FLOATS + "iu",
            axes=(2, None),
            width=_of_classes,
            takes_label=_label_of_map,
            make=_make_map,
            metrics=segmentation.METRICS,
            defaults=(
                Default(metric="agreement", by_slice=True),
                Default(metric="iou_agreement", limits=(0.99, 0.98, 0.95)),
            ),
            keys=frozenset({"axis", "threshold"}),
            has_classes=True,
        ),
        OutputKind.BOXES: Kind(
            shape="[n, boxes, 5 or 6]: left, top, right, bottom, score, class",
            holds=FLOATS,
            axes=(3, 3),
            width=_last,
            takes_label=_label_of_boxes,
            make=lambda made: [boxes.BoxAgreement(threshold=made.threshold, with_label=made.with_label)],
            metrics=boxes.METRICS,
            defaults=(
                Default(metric="box_f1", limits=(0.99, 0.98, 0.95), by_slice=True),
                Default(metric="box_quality", limits=(0.98, 0.95, 0.90)),
            ),
            keys=frozenset({"threshold"}),
        ),
        OutputKind.CTC: Kind(
            shape="[n, frames, symbols] or [n, symbols, frames], with `axis` or a mask of frames",
            holds=FLOATS,
            axes=(3, 3),
            width=_last,
            takes_label=_label_of_rows,
            make=_make_text,
            metrics=ctc.METRICS,
            defaults=(
                Default(metric="agreement", by_slice=True),
                Default(metric="edit_distance", limits=(0.01, 0.02, 0.05)),
            ),
            keys=frozenset({"axis", "blank"}),
            has_classes=True,
        ),
        OutputKind.LANGUAGE: Kind(
            shape="[n, positions, vocabulary], or with `axis`",
            holds=FLOATS,
            axes=(2, None),
            width=_last,
            takes_label=_label_of_positions,
            make=lambda made: [language.LanguageAgreement(with_label=made.with_label, keeps=made.keeps)],
            metrics=language.METRICS,
            defaults=(
                Default(metric="top1_agreement", by_slice=True),
                Default(metric="top5_agreement", limits=(0.99, 0.99, 0.98)),
                Default(metric="perplexity_ratio", limits=(1.01, 1.02, 1.05)),
            ),
            keys=frozenset({"axis"}),
            has_classes=True,
        ),
    }
)
"""Every kind's row."""
