"""Samples that belong together: they count once, and every metric knows it."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.validation.cases import FEW, policy_of, rule
from tests.validation.test_comparison import BY, CANDIDATE, LABEL, MASKS, OUTPUTS, REFERENCE, SLICES, N
from validation import reservoir, units
from validation.bootstrap import Bootstrap
from validation.comparison import Comparison, ComparisonResult, Hidden
from validation.groups import Groups, Numbering, keys_of_rows, keys_of_values
from validation.metrics import METRICS
from validation.outputs import OutputKind, OutputSpec
from validation.policy import default_policy
from validation.reservoir import KeptSamples
from validation.units import MOST_UNITS, Units
from validation.verdict import Outcome, decide

SCORE = {"out": OutputSpec(kind=OutputKind.SCORE, low=0, high=1)}


def compare(rows: np.ndarray, group: np.ndarray | None, cuts: list[int] = []) -> ComparisonResult:  # noqa: B006
    """Compare these rows of the samples of `test_comparison`, in batches that end at `cuts`."""
    parts = [rows[start:end] for start, end in pairwise([0, *sorted(cuts), len(rows)])]
    keys = None if group is None else np.split(keys_of_values(group), sorted(cuts))
    groups = None if keys is None else Groups.by(keys)
    comparison = Comparison(OUTPUTS, by=BY, plan=FEW, group_sizes=None if groups is None else groups.sizes)
    for number, part in enumerate(parts):
        comparison.update(
            {name: array[part] for name, array in REFERENCE.items()},
            {name: array[part] for name, array in CANDIDATE.items()},
            slices={name: array[part] for name, array in SLICES.items()},
            label=LABEL[part],
            masks={name: array[part] for name, array in MASKS.items()},
            groups=None if groups is None else groups.batches[number],
        )
    return comparison.result()


@cache
def spread() -> tuple[np.ndarray, np.ndarray, ComparisonResult]:
    """Rows that repeat samples one to nine times in any order, their groups, and their comparison in one batch."""
    random = np.random.default_rng(4)
    rows = random.permutation(np.repeat(np.arange(N), random.integers(1, 10, N)))
    return rows, rows, compare(rows, rows)


@given(st.lists(st.integers(0, 290), max_size=5))
@settings(max_examples=6, deadline=None)
def test_groups_in_any_split_give_the_same_bytes(cuts: list[int]) -> None:
    rows, group, whole = spread()
    assert compare(rows, group, [min(cut, len(rows)) for cut in cuts]) == whole


def test_samples_in_groups_of_their_own_are_measured_as_without_groups() -> None:
    alone, plain = compare(np.arange(N), np.arange(N)), compare(np.arange(N), None)
    assert alone.independent == alone.samples == N
    for one, other in zip(alone.measurements, plain.measurements, strict=True):
        assert (one.output, one.metric, one.n, one.rows) == (other.output, other.metric, other.n, other.n)
        for field in ("value", "low", "high"):
            assert (getattr(one, field) is None) == (getattr(other, field) is None)
            if getattr(one, field) is not None:
                assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-9, abs=1e-12), one


def test_repeats_count_once_in_every_metric_and_slice() -> None:
    *_, repeated = spread()
    plain = compare(np.arange(N), None)
    assert (repeated.independent, plain.independent) == (N, None)
    for one, other in zip(repeated.measurements, plain.measurements, strict=True):
        assert (one.output, one.metric, one.group, one.n) == (other.output, other.metric, other.group, other.n)
        assert one.rows > one.n
        if other.value is not None and "the worst of" not in other.note:  # which column that is follows from the draws
            assert one.value == pytest.approx(other.value, rel=1e-6, abs=1e-6), one
    assert [(s.value, s.n) for s in repeated.slices] == [(s.value, s.n) for s in plain.slices]
    assert [s.mae for s in repeated.slices] == pytest.approx([s.mae for s in plain.slices])


def compare_scores(
    error: np.ndarray, group: np.ndarray, slices: dict[str, np.ndarray] | None = None, plan: Bootstrap = FEW
) -> ComparisonResult:
    """Errors of a score that is 0.5 plus a ramp, by group."""
    groups = Groups.by([keys_of_values(group)])
    comparison = Comparison(
        SCORE, by={"out": dict.fromkeys(slices or {}, METRICS)}, plan=plan, group_sizes=groups.sizes
    )
    reference = 0.3 + 0.4 * np.linspace(0, 1, len(error))
    comparison.update({"out": reference}, {"out": reference + error}, slices=slices or {}, groups=groups.batches[0])
    return comparison.result()


def test_a_group_counts_once_however_many_rows_it_has() -> None:
    error, group = np.array([0.1] * 97 + [0.3, 0.4, 0.5]), np.array(["a"] * 97 + ["b", "b", "c"])
    found = {m.metric: m for m in compare_scores(error, group).measurements}
    assert (found["mae"].n, found["mae"].rows) == (3, 100)
    assert found["mae"].value == pytest.approx((0.1 + 0.35 + 0.5) / 3)
    assert found["max_abs"].value == pytest.approx(0.5)


def test_min_samples_counts_groups_in_each_value_of_a_slice() -> None:
    slices = {"level": np.repeat([1, 2], 600)}
    group = np.concatenate([np.arange(600) % 20, 20 + np.arange(600) % 60])
    policy = policy_of(rule("mae", max=0.1, by="level"), min_samples=50)
    verdict = decide(policy, compare_scores(np.full(1200, 0.01), group, slices))
    assert [(each.group, each.n, each.rows, each.outcome) for each in verdict.rules] == [
        ("1", 20, 600, Outcome.INCONCLUSIVE),
        ("2", 60, 600, Outcome.PASS),
    ]
    assert "on 20 independent samples (600 rows), fewer than the 50 that decide" in verdict.rules[0].sentence
    assert "on 60 independent samples (600 rows)." in verdict.rules[1].sentence


def test_a_group_that_lies_in_several_values_of_a_slice_counts_in_each() -> None:
    slices, group = {"part": np.arange(400) % 4}, np.arange(400) // 4
    found = compare_scores(np.linspace(0, 0.1, 400), group, slices)
    parts = [m for m in found.measurements if m.metric == "mae" and m.group is not None]
    assert [m.n for m in parts] == [100] * 4
    assert [m.value for m in parts] == pytest.approx([np.linspace(0, 0.1, 400)[part::4].mean() for part in range(4)])


ONE = {
    OutputKind.SCORE: np.array(0.7),
    OutputKind.LOGITS: np.arange(8.0),
    OutputKind.EMBEDDING: np.linspace(-1, 1, 16),
    OutputKind.TENSOR: np.linspace(-1, 1, 16),
}


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("min_samples", [2, 300])
def test_one_sample_ten_thousand_times_decides_nothing(kind: OutputKind, min_samples: int) -> None:
    spec = {"out": OutputSpec(kind=kind)}
    policy = replace(default_policy(spec, "fp16"), min_samples=min_samples, resamples=FEW.resamples)
    comparison = Comparison(spec, plan=FEW, group_sizes=np.array([10_000]))
    rows = np.repeat(ONE[kind][None], 10_000, axis=0)
    comparison.update({"out": rows}, {"out": rows * 1.0001}, groups=np.zeros(10_000, np.int64))
    verdict = decide(policy, comparison.result())
    assert {each.n for each in verdict.rules} == {1}
    assert verdict.rules[0].outcome is Outcome.INCONCLUSIVE
    assert verdict.outcome is not Outcome.PASS


def test_groups_are_numbered_as_they_come_and_texts_are_the_numbers_that_they_spell() -> None:
    found = Groups.by([keys_of_values(np.array(["7", "3", "7"])), keys_of_values(np.array([5, 3], np.int8))])
    assert [batch.tolist() for batch in found.batches] == [[0, 1, 0], [2, 1]]
    assert (found.sizes.tolist(), found.count, found.rows) == ([2, 2, 1], 3, 5)
    assert Groups.by([]).count == 0


@given(st.lists(st.integers(0, 40), max_size=80), st.lists(st.integers(0, 80), max_size=4))
def test_a_numbering_follows_the_first_appearance_in_any_split(groups: list[int], cuts: list[int]) -> None:
    numbering, first = Numbering(), list(dict.fromkeys(groups))
    parts = np.split(np.array(groups, np.int64), sorted(min(cut, len(groups)) for cut in cuts))
    found = [number for part in parts for number in numbering.number(part).tolist()]
    assert found == [first.index(group) for group in groups]
    assert numbering.count == len(first)


def test_rows_are_the_same_where_all_that_is_there_of_them_is() -> None:
    keys = keys_of_rows({"a": np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]]), "b": np.array([0, 0, 0])}, 3)
    assert keys[0] == keys[1] != keys[2]
    assert keys_of_rows({"b": np.zeros(1, int), "a": np.array([[1.0, 2.0]])}, 1) == keys[:1]
    assert keys_of_rows({"b": np.ones(1, int), "a": np.array([[1.0, 2.0]])}, 1) != keys[:1]


@given(st.integers(1, 300), st.lists(st.integers(0, 300), max_size=5), st.integers(1, 60))
def test_units_of_groups_are_the_same_bytes_in_any_split(count: int, cuts: list[int], groups: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MOST_UNITS", 8)
        random = np.random.default_rng(count)
        numbers, keys = random.normal(0, 1e3, count), random.integers(0, groups, count).astype(np.uint64)
        one, other = (units_of_groups(numbers, keys, where) for where in (sorted(min(cut, count) for cut in cuts), []))
    assert one.samples == other.samples == len(np.unique(keys)) == pytest.approx(other.sizes.sum())
    assert one.sizes.tobytes() == other.sizes.tobytes()
    assert one.sums["x"].tobytes() == other.sums["x"].tobytes()
    assert one.sizes.size <= 16
    means = [numbers[keys == key].mean() for key in np.unique(keys)]
    assert one.sums["x"].sum() == pytest.approx(np.sum(means), abs=1e-6)


def units_of_groups(numbers: np.ndarray, keys: np.ndarray, cuts: list[int]) -> Units:
    found = Groups.by(np.split(keys, cuts))
    made, numbering = Units(("x",)), Numbering()
    for part, batch in zip(np.split(numbers, cuts), found.batches, strict=True):
        members = units.Members(numbering.number(batch), 1 / found.sizes[batch])
        made.add({"x": part}, members)
    return made


def test_many_groups_are_few_units_whose_sizes_count_groups() -> None:
    keys = np.tile(np.arange(30_000), 3).astype(np.uint64)
    made = units_of_groups(np.ones(90_000), keys, [10, 50_000])
    assert made.samples == 30_000 == made.sizes.sum()
    assert MOST_UNITS <= made.sizes.size <= 2 * MOST_UNITS
    assert made.sums["x"] == pytest.approx(made.sizes)


@given(st.integers(1, 400), st.lists(st.integers(0, 400), max_size=5), st.integers(1, 40), st.integers(1, 50))
def test_one_sample_of_each_group_is_kept_whatever_the_split(
    count: int, cuts: list[int], limit: int, groups: int
) -> None:
    group = np.random.default_rng(count).integers(0, groups, count)
    one, other = (
        keep(np.arange(count), group, where, limit) for where in (sorted(min(cut, count) for cut in cuts), [])
    )
    kept = one.column("x").astype(int)
    assert kept.tobytes() == other.column("x").astype(int).tobytes()
    assert (one.note, one.first_half.tolist()) == (other.note, other.first_half.tolist())
    assert len(kept) == len(np.unique(group[kept])) <= limit
    assert (np.diff(kept) > 0).all()
    if len(np.unique(group)) <= limit:
        assert len(kept) == len(np.unique(group))


def keep(numbers: np.ndarray, group: np.ndarray, cuts: list[int], limit: int) -> KeptSamples:
    kept = KeptSamples(("x",), limit)
    for part, groups in zip(np.split(numbers, cuts), np.split(group, cuts), strict=True):
        kept.add({"x": part.astype(float)}, units.Members(groups, np.ones(len(groups))))
    return kept


def test_what_is_kept_of_a_group_is_any_of_its_rows() -> None:
    group = np.repeat(np.arange(5_000), 10)
    kept = keep(np.arange(50_000), group, [], reservoir.MOST_KEPT).column("x").astype(int)
    assert np.bincount(kept % 10, minlength=10).min() > 400


def test_how_much_a_mask_hides_is_counted_by_output() -> None:
    result = compare(np.arange(N), None, [17])
    shown = int(MASKS["attention_mask"].sum())
    assert result.hidden == tuple(
        Hidden(output=name, hidden=4 * N - shown, positions=4 * N) for name in ("tokens", "embedding")
    )


@pytest.mark.parametrize("groups", [None, np.zeros(3, np.int64)])
def test_groups_that_do_not_fit_the_batch_are_a_mistake_of_the_caller(groups: np.ndarray | None) -> None:
    comparison = Comparison(SCORE, group_sizes=np.array([4]))
    with pytest.raises(ValueError, match="groups"):
        comparison.update({"out": np.zeros(4)}, {"out": np.zeros(4)}, groups=groups)
    with pytest.raises(ValueError, match="groups"):
        Comparison(SCORE).update({"out": np.zeros(3)}, {"out": np.zeros(3)}, groups=np.zeros(3, np.int64))
