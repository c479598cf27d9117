"""What an output of a kind has to hold, where its classes are, and that good engines pass and wrong ones fail."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.validation.cases import AXES, FEW, measure, pair_of, run, values, whole
from validation.comparison import Comparison
from validation.kinds import KINDS
from validation.metrics import METRICS
from validation.misfits import classes_last, find_misfit, find_wrong_key
from validation.outputs import OutputKind, OutputSpec
from validation.policy import Policy, PolicyError, default_policy, outputs_from_mapping
from validation.rules import PRECISIONS
from validation.verdict import Outcome, decide

OWN = (
    *(OutputKind.LABELS, OutputKind.MULTILABEL, OutputKind.SEGMENTATION),
    *(OutputKind.BOXES, OutputKind.CTC, OutputKind.LANGUAGE),
)
N = 640


def spec_of(kind: OutputKind, **keys: object) -> OutputSpec:
    return OutputSpec(kind=kind, **({"axis": AXES.get(kind)} | keys))


def judged(kind: OutputKind, candidate: np.ndarray, precision: str) -> Outcome:
    reference, _, _ = pair_of(kind, 0, N)
    policy = replace(default_policy({"out": spec_of(kind)}, precision), resamples=FEW.resamples)
    return decide(policy, run(reference, candidate, kind)).outcome


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_equal_engine_passes_the_default_policy_on_640_samples(kind: OutputKind, precision: str) -> None:
    assert judged(kind, pair_of(kind, 0, N)[0], precision) is Outcome.PASS


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_that_gives_a_tenth_of_the_answers_to_others_fails(kind: OutputKind, precision: str) -> None:
    wrong, _, _ = pair_of(kind, 0, N)
    wrong[::10] = wrong[5::10]
    assert judged(kind, wrong, precision) is Outcome.FAIL


@pytest.mark.parametrize("kind", OWN)
def test_the_cuts_between_batches_change_nothing(kind: OutputKind) -> None:
    r, c, label = pair_of(kind, 1, 60)
    slices = {"level": np.arange(60) % 3}
    one = run(r, c, kind, label=label, slices=slices, by=["level"])
    assert one.defects == ()
    assert run(r, c, kind, label=label, slices=slices, by=["level"], cuts=[7, 8, 40]) == one
    assert {m.group for m in one.measurements} == {None, "0", "1", "2"}


@pytest.mark.parametrize("kind", OWN)
def test_without_labels_what_needs_them_has_no_value_and_all_else_has(kind: OutputKind) -> None:
    r, c, _ = pair_of(kind, 2, 60)
    for name, m in measure(r, c, kind).items():
        assert (m.value is None) == METRICS[name].needs_label, name
        assert not METRICS[name].needs_label or m.note.startswith("needs labels that fit this output")


@pytest.mark.parametrize("kind", OWN)
def test_samples_of_one_group_count_once(kind: OutputKind) -> None:
    r, c, _ = pair_of(kind, 3, 40)
    once = whole(run(r, c, kind))
    comparison = Comparison({"out": spec_of(kind)}, plan=FEW, group_sizes=np.full(40, 3))
    rows = np.repeat(np.arange(40), 3)
    comparison.update({"out": r[rows]}, {"out": c[rows]}, groups=rows)
    for name, m in whole(comparison.result()).items():
        assert m.n == once[name].n, name
        assert m.value == pytest.approx(once[name].value), name


# The axis of the classes


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.SEGMENTATION])
@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_wherever_its_classes_are_an_output_has_the_same_measurements(kind: OutputKind, axis: int) -> None:
    r, c, label = pair_of(OutputKind.SEGMENTATION, 0, 50)
    moved = [np.ascontiguousarray(np.moveaxis(side, -1, axis)) for side in (r, c)]
    assert measure(*moved, kind, label=label, axis=axis) == measure(r, c, kind, label=label, axis=-1)


@pytest.mark.parametrize("kind", [OutputKind.LOGITS, OutputKind.PROBABILITIES, OutputKind.SEGMENTATION])
def test_above_two_dimensions_the_axis_must_be_said(kind: OutputKind) -> None:
    r = np.random.default_rng(0).random((8, 4, 5, 5))
    (defect, *_) = run(r, r, kind, axis=None).defects
    assert defect.startswith("out: the reference has 4 axes [n, 4, 5, 5], and nothing says which of them holds")
    assert (
        "write axis: 1 where they come right after the samples, as in NCHW, or axis: -1 where they come last" in defect
    )


def test_a_mask_of_all_positions_says_that_the_classes_come_last() -> None:
    r, c, _ = pair_of(OutputKind.LANGUAGE, 0, 20)
    mask = np.ones((20, 3))
    assert measure(r, c, OutputKind.LOGITS, mask=mask) == measure(r, c, OutputKind.LOGITS, mask=mask, axis=2)
    (defect, *_) = run(r, r, OutputKind.LOGITS, mask=np.ones(20)).defects
    assert "nothing says which of them holds the classes" in defect


@pytest.mark.parametrize("axis", [3, -3])
def test_an_axis_that_is_not_there_is_a_defect(axis: int) -> None:
    r = np.random.default_rng(0).random((8, 4, 5))
    (defect, *_) = run(r, r, OutputKind.LOGITS, axis=axis).defects
    assert f"axis {axis} is none of its classes" in defect


def test_the_labels_of_maps_have_the_shape_of_the_positions() -> None:
    r, c, _ = pair_of(OutputKind.SEGMENTATION, 0, 30)
    right = r.argmax(axis=-1)
    nchw = [np.moveaxis(side, -1, 1) for side in (r, c)]
    found = values(measure(*nchw, OutputKind.LOGITS, label=right, axis=1))
    assert found["accuracy_drop"] == pytest.approx((c.argmax(axis=-1) != right).mean())


# What a kind holds


NUMBERS = {"float": np.ones((4, 3)), "whole": np.ones((4, 3), np.int64), "bool": np.ones((4, 3), bool)}


@pytest.mark.parametrize("kind", [OutputKind.TENSOR, OutputKind.EMBEDDING, OutputKind.LOGITS, OutputKind.PROBABILITIES])
def test_whole_numbers_are_no_sizes_unless_they_are_a_score(kind: OutputKind) -> None:
    misfit = find_misfit(OutputSpec(kind=kind), NUMBERS["whole"])
    assert misfit is not None
    assert "write kind: labels, which counts how many are equal, or kind: score" in misfit
    assert find_misfit(OutputSpec(kind=OutputKind.SCORE), NUMBERS["whole"]) is None


@pytest.mark.parametrize("kind", sorted(set(OutputKind) - {OutputKind.LABELS}))
def test_true_and_false_are_labels_alone(kind: OutputKind) -> None:
    misfit = find_misfit(OutputSpec(kind=kind), NUMBERS["bool"])
    assert misfit is not None
    assert "holds bool, true and false" in misfit
    assert "score" not in misfit.partition("write")[2]
    assert find_misfit(OutputSpec(kind=OutputKind.LABELS), NUMBERS["bool"]) is None


def test_whole_numbers_beside_a_reference_that_was_stored_as_floats_are_a_defect() -> None:
    """References of before were float32 throughout."""
    r = np.arange(400)
    (defect,) = run(r.astype(np.float32), r, OutputKind.TENSOR).defects
    assert defect.startswith(
        "out: the candidate holds int64, whole numbers, and kind tensor measures sizes; write kind"
    )


def test_floats_are_no_labels() -> None:
    misfit = find_misfit(OutputSpec(kind=OutputKind.LABELS), NUMBERS["float"])
    assert misfit is not None
    assert "write kind: tensor, or have the module return whole numbers" in misfit


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (OutputKind.BOXES, (4, 3)),
        (OutputKind.BOXES, (4, 3, 4)),
        (OutputKind.CTC, (4, 3)),
        (OutputKind.LANGUAGE, (4,)),
        (OutputKind.MULTILABEL, (4,)),
        (OutputKind.SEGMENTATION, (4,)),
    ],
)
def test_a_shape_that_is_not_the_kind_s_is_refused(kind: OutputKind, shape: tuple[int, ...]) -> None:
    misfit = find_misfit(OutputSpec(kind=kind), np.ones(shape))
    assert misfit is not None
    assert KINDS[kind].shape in misfit


def test_a_map_of_numbers_has_no_axis_of_classes() -> None:
    maps = np.ones((4, 5, 5), np.int64)
    spec = OutputSpec(kind=OutputKind.SEGMENTATION)
    assert find_misfit(spec, maps) is None
    assert classes_last(replace(spec, axis=1), maps).shape == maps.shape
    assert find_misfit(replace(spec, axis=1), maps) == "holds int64, a class for each position; remove axis"


@pytest.mark.parametrize(("kind", "key"), [*itertools.product(OutputKind, ("axis", "threshold", "blank"))])
def test_a_key_belongs_to_the_kinds_that_have_it(kind: OutputKind, key: str) -> None:
    problem = find_wrong_key(OutputSpec(kind=kind, **{key: 1}))
    assert (problem is None) == (key in KINDS[kind].keys)
    assert problem is None or problem.startswith(f"{key}: kind {kind.value} has none; remove it, or take one of")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "logits", "axis": "last"}, ["outputs.y.axis", "'last' is no whole number"]),
        ({"kind": "logits", "axis": 1.5}, ["outputs.y.axis", "1.5 is no whole number"]),
        ({"kind": "logits", "axis": True}, ["outputs.y.axis"]),
        ({"kind": "logits", "axis": 0}, ["outputs.y.axis", "0 is that of the samples"]),
        ({"kind": "multilabel", "threshold": None}, ["outputs.y.threshold", "None is no number"]),
        ({"kind": "tensor", "axis": 1}, ["outputs.y.axis", "kind tensor has none"]),
        ({"kind": "boxes", "mask": "m"}, ["outputs.y.mask", "remove it"]),
    ],
)
def test_a_mistake_in_a_policy_s_outputs_is_named(entry: dict[str, object], words: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        outputs_from_mapping({"outputs": {"y": entry}})
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_policy_says_what_its_outputs_need() -> None:
    found = outputs_from_mapping({"outputs": {"y": {"kind": "multilabel", "axis": 1, "threshold": 0.3}}})
    assert found == {"y": OutputSpec(kind=OutputKind.MULTILABEL, axis=1, threshold=0.3)}


@pytest.mark.parametrize("kind", OWN)
def test_default_rules_hold_twice_as_wide_for_each_value_of_a_slice(kind: OutputKind) -> None:
    policy: Policy = default_policy({"out": spec_of(kind)}, "int8", ["level"])
    limits = {(rule.metric, rule.by): rule.limit for rule in policy.rules}
    by_slice = [metric for metric, by in limits if by is not None]
    assert by_slice
    for metric in by_slice:
        assert 1 - limits[metric, "level"] == pytest.approx(2 * (1 - limits[metric, None]))
