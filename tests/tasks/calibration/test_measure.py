from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tasks.calibration.activations import MOST_RUN
from tasks.calibration.findings import FEWEST, find_differences
from tasks.calibration.interface import DataSet, MeasureRequest
from tasks.calibration.measure import measure_in_child
from tasks.calibration.report import Place, Resemblance
from tasks.declared import Dim, InputSpec
from tasks.errors import InputError, StageError
from tasks.process.child import ignore_progress
from tasks.samples.npz import save_shard
from tasks.specs import OutputDeclaration
from validation.drift import compare, stratum_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.calibration.report import FeatureDrift
    from tasks.samples.npz import Arrays

WIDTH = 16
FEATURES = {"x": {"dtype": "float32", "shape": ["batch", WIDTH]}}
TOKENS = {
    "ids": {"dtype": "int64", "shape": ["batch", "length"], "pad": 1},
    "mask": {"dtype": "int64", "shape": ["batch", "length"]},
}
STREET, QUIET = Place(stratum="noise", value="street"), Place(stratum="noise", value="quiet")


def lay_out(folder: Path, shards: Sequence[Arrays]) -> DataSet:
    """A data set of these shards, in which `slice.…` are annotations."""
    for part in ("inputs", "annotations"):
        (folder / part).mkdir(parents=True)
    for number, shard in enumerate(shards):
        notes = {name: array for name, array in shard.items() if name.startswith("slice.")}
        save_shard(folder / "inputs", number, {name: shard[name] for name in shard if name not in notes})
        save_shard(folder / "annotations", number, notes)
    samples = sum(len(next(iter(shard.values()))) for shard in shards)
    return DataSet(inputs=folder / "inputs", annotations=folder / "annotations", samples=samples)


def write_scorer(folder: Path, body: str = "y = MatMul(r, w)", outputs: str = "float[batch, n] y") -> str:
    (folder / "model" / "onnx").mkdir(parents=True)
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> scorer (float[batch, {WIDTH}] x) => ({outputs})'
        f" {{ h = MatMul(x, w)  r = Relu(h)  {body} }}"
    )
    weight = np.random.default_rng(4).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, folder / "model" / "onnx" / "model.onnx")
    return str(folder / "model" / "onnx" / "model.onnx")


def measure(
    folder: Path,
    calibration: Sequence[Arrays],
    production: Sequence[Arrays],
    *,
    validation: Sequence[Arrays] | None = None,
    inputs: dict[str, Any] = FEATURES,
    strata: tuple[str, ...] = ("noise",),
    **model: Any,
) -> Resemblance:
    """What is measured of these shards, as it comes out of the child and through JSON."""
    request = MeasureRequest(
        calibration=lay_out(folder / "set", calibration),
        production=lay_out(folder / "production", production),
        validation=None if validation is None else lay_out(folder / "validation", validation).inputs,
        inputs={name: InputSpec.model_validate(spec) for name, spec in inputs.items()},
        batch_dim="batch",
        batch=Dim(min=1, opt=8, max=16),
        strata=strata,
        **({"onnx": None, "outputs": {"y": OutputDeclaration.model_validate({"kind": "tensor"})}} | model),
    )
    found = measure_in_child(request.model_dump(mode="json"), ignore_progress)
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)  # no NaN, no Infinity
    again = Resemblance.model_validate_json(text)
    assert again == found
    return again


def normal(count: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(shift, scale, (count, WIDTH)).astype(np.float32)


def shard(x: Any, *noise: tuple[str, int]) -> Arrays:
    return {"x": x, "slice.noise": np.repeat([name for name, _ in noise], [count for _, count in noise])}


def findings(found: Resemblance) -> list[str]:
    return [finding.sentence for finding in find_differences(found)]


def at(found: Resemblance, feature: str, place: Place) -> FeatureDrift:
    (row,) = [row for row in found.features if (row.feature, row.place) == (feature, place)]
    return row


def test_samples_are_counted_by_stratum_over_all_shards(tmp_path: Path) -> None:
    found = measure(
        tmp_path,
        [shard(normal(30, 1), ("quiet", 20), ("street", 10)), shard(normal(10, 2), ("quiet", 10))],
        [shard(normal(50, 3), ("street", 45), ("bus", 5))],
    )
    assert (found.set_samples, found.production_samples) == (40, 50)
    assert found.counts == {"noise": {"quiet": 30, "street": 10}}
    assert found.production_counts == {"noise": {"bus": 5, "street": 45}}
    assert (found.run, found.ranges, found.tokens) == (None, (), ())


def test_production_may_lack_a_stratum(tmp_path: Path) -> None:
    found = measure(tmp_path, [shard(normal(40, 1), ("quiet", 40))], [{"x": normal(60, 2)}])
    assert found.production_counts == {}
    assert {row.place for row in found.features} == {Place()}


def test_features_are_compared_weighed_as_production_and_unweighed_in_each_stratum(tmp_path: Path) -> None:
    ours, theirs = normal(60, 1), normal(300, 2)
    own, other = [("quiet", 30), ("street", 30)], [("quiet", 240), ("street", 60)]
    found = measure(tmp_path, [shard(ours, *own)], [shard(theirs, *other)])
    weights = stratum_weights(["quiet"] * 30 + ["street"] * 30, ["quiet"] * 240 + ["street"] * 60)
    expected = {
        Place(): compare(ours, theirs, weights),
        QUIET: compare(ours[:30], theirs[:240]),
        STREET: compare(ours[30:], theirs[240:]),
    }
    for place, rows in expected.items():
        for column, wanted in enumerate(rows):
            row = at(found, f"x[{column}]", place)
            assert (row.ks, row.psi) == pytest.approx((wanted.ks, wanted.psi), abs=1e-6)
            assert (row.set_samples, row.production_samples) == (wanted.n_set, wanted.n_sample)


def test_a_balanced_set_passes_against_unbalanced_production_of_other_features(tmp_path: Path) -> None:
    ours = np.concatenate([normal(60, 1), normal(60, 2, shift=3)])
    theirs = np.concatenate([normal(900, 3), normal(100, 4, shift=3)])
    other = [("quiet", 900), ("street", 100)]
    found = measure(tmp_path, [shard(ours, ("quiet", 60), ("street", 60))], [shard(theirs, *other)])
    assert findings(found) == []
    without = measure(tmp_path / "without", [{"x": ours}], [{"x": theirs}], strata=())
    assert findings(without)  # so it was the weights


def test_a_set_from_elsewhere_is_found_where_it_differs(tmp_path: Path) -> None:
    ours = np.concatenate([normal(60, 1), normal(60, 2, shift=2)])
    found = measure(
        tmp_path,
        [shard(ours, ("quiet", 60), ("street", 60))],
        [shard(normal(600, 3), ("quiet", 300), ("street", 300))],
    )
    sentences = findings(found)
    assert any("where noise=street" in sentence for sentence in sentences)
    assert not any("where noise=quiet" in sentence for sentence in sentences)


def test_values_that_the_set_lacks_are_left_out_of_the_comparison(tmp_path: Path) -> None:
    theirs = np.concatenate([normal(300, 1), normal(300, 2, shift=9)])
    found = measure(tmp_path, [shard(normal(90, 3), ("quiet", 90))], [shard(theirs, ("quiet", 300), ("street", 300))])
    assert findings(found) == []  # coverage says it, once
    assert at(found, "x[0]", Place()).production_samples == 300


def test_values_that_never_come_together_in_the_set_are_not_left_out(tmp_path: Path) -> None:
    def crossed(x: Any, noise: list[str], level: list[str]) -> Arrays:
        return {"x": x, "slice.noise": np.array(noise), "slice.level": np.array(level)}

    ours = crossed(normal(120, 1), ["quiet"] * 60 + ["street"] * 60, ["weak"] * 60 + ["strong"] * 60)
    theirs = crossed(normal(600, 2, shift=5), ["quiet", "street"] * 300, ["strong", "weak"] * 300)
    found = measure(tmp_path, [ours], [theirs], strata=("noise", "level"))
    assert at(found, "x[0]", Place()).production_samples == 600
    assert findings(found)


def test_places_with_few_samples_are_not_compared_on_their_own(tmp_path: Path) -> None:
    few = FEWEST - 1
    found = measure(
        tmp_path,
        [shard(normal(60, 1), ("quiet", 60 - few), ("street", few))],
        [shard(normal(90, 2), ("quiet", 45), ("street", 45))],
    )
    assert {row.place for row in found.features} == {Place(), QUIET}


def test_one_sample_a_stratum_is_no_crash_and_compared_as_a_whole(tmp_path: Path) -> None:
    noise = [(f"town{number:02}", 1) for number in range(70)]
    found = measure(
        tmp_path, [shard(normal(70, 1), *noise)], [shard(normal(70, 2, shift=3), *noise)], onnx=write_scorer(tmp_path)
    )
    assert {row.place for row in found.features} == {Place()}
    assert findings(found)


def test_shards_that_differ_in_their_strata_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slice\.noise is missing for 50 of 90 samples of one data set"):
        measure(
            tmp_path,
            [shard(normal(40, 1), ("quiet", 40))],
            [shard(normal(40, 2), ("quiet", 40)), {"x": normal(50, 3)}],
        )


def texts(count: int, seed: int, *, vocabulary: range = range(2, 50), padded: int = 12) -> Arrays:
    """Token samples of 4 to 9 tokens, padded to an extent."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 10, count)
    inside = np.arange(padded) < lengths[:, None]
    tokens = np.zeros((count, padded), np.int64)
    tokens[:, :9] = rng.integers(vocabulary.start, vocabulary.stop, (count, 9))  # the same whatever the padding
    return {"ids": np.where(inside, tokens, 1), "mask": inside.astype(np.int64)}


def test_tokens_are_compared_without_padding_and_masks_not_at_all(tmp_path: Path) -> None:
    found = measure(tmp_path, [texts(64, 1)], [texts(200, 2, padded=30)], inputs=TOKENS, strata=())
    assert findings(found) == []
    (row,) = found.tokens
    assert (row.input, row.place) == ("ids", Place())
    assert {row.feature for row in found.features} == {"length of length"}


def test_tokens_that_the_set_never_has_are_found(tmp_path: Path) -> None:
    found = measure(tmp_path, [texts(64, 1)], [texts(200, 2, vocabulary=range(26, 74))], inputs=TOKENS, strata=())
    (row,) = found.tokens
    assert row.unseen == pytest.approx(0.5, abs=0.05)
    assert any("are tokens that the set lacks" in sentence for sentence in findings(found))


def padding(count: int) -> Arrays:
    return {"ids": np.ones((count, 6), np.int64), "mask": np.zeros((count, 6), np.int64)}


def test_a_set_of_padding_alone_is_no_crash_and_no_pass(tmp_path: Path) -> None:
    found = measure(tmp_path, [padding(40)], [texts(60, 1)], inputs=TOKENS, strata=())
    (row,) = found.tokens
    assert (row.unseen, row.beyond) == (1.0, 1.0)
    assert len(findings(found)) == 2  # tokens and lengths


def test_production_of_padding_alone_is_no_crash_and_no_pass(tmp_path: Path) -> None:
    assert findings(measure(tmp_path, [texts(40, 1)], [padding(60)], inputs=TOKENS, strata=()))


@pytest.mark.parametrize("padded", [12, 31])
def test_a_sample_in_the_validation_data_too_is_refused_whatever_its_padding(tmp_path: Path, padded: int) -> None:
    held_out = {name: array[5:8] for name, array in texts(40, 1, padded=padded).items()}
    with pytest.raises(InputError, match=r"3 of its 40 samples \(first: 5, 6, 7, .*in the validation data too"):
        measure(
            tmp_path,
            [texts(40, 1)],
            [texts(60, 2)],
            validation=[texts(50, 3, padded=padded), held_out],
            inputs=TOKENS,
            strata=(),
        )


def test_validation_samples_with_a_little_noise_are_refused_too(tmp_path: Path) -> None:
    held_out = normal(60, 3)
    copies = held_out[:40] + np.random.default_rng(7).normal(0, 1e-5, (40, WIDTH)).astype(np.float32)
    said = r"40 of its 40 samples \(first: 0, 1, .*near copies of 40 samples of the validation data.*take other samples"
    with pytest.raises(InputError, match=said):
        measure(tmp_path, [{"x": copies}], [{"x": normal(60, 2)}], validation=[{"x": held_out}], strata=())


def test_production_may_share_samples_with_the_set(tmp_path: Path) -> None:
    same = [texts(40, 1)]
    assert findings(measure(tmp_path, same, same, validation=[texts(50, 3)], inputs=TOKENS, strata=())) == []


CONSTANT = np.full((40, WIDTH), 2.5, np.float32)


def test_constants_that_agree_pass_and_others_are_found(tmp_path: Path) -> None:
    assert findings(measure(tmp_path / "same", [{"x": CONSTANT}], [{"x": CONSTANT[:30]}], strata=())) == []
    assert findings(measure(tmp_path / "other", [{"x": CONSTANT}], [{"x": CONSTANT[:30] + 1}], strata=()))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_float_type_is_compared(tmp_path: Path, dtype: str) -> None:
    inputs = {"x": {"dtype": dtype, "shape": ["batch", WIDTH]}}
    ours, theirs = ({"x": normal(count, count).astype(dtype)} for count in (40, 60))
    assert findings(measure(tmp_path / "same", [ours], [theirs], inputs=inputs, strata=())) == []
    far = {"x": theirs["x"] + np.asarray(9, dtype)}
    assert findings(measure(tmp_path / "far", [ours], [far], inputs=inputs, strata=()))


def test_huge_values_are_compared_too(tmp_path: Path) -> None:
    ours, theirs = ({"x": normal(count, count) * np.float32(1e30)} for count in (40, 60))
    assert findings(measure(tmp_path / "same", [ours], [theirs], strata=(), onnx=write_scorer(tmp_path))) == []
    small = {"x": ours["x"] / np.float32(1e30)}
    found = measure(tmp_path / "far", [small], [theirs], strata=(), onnx=write_scorer(tmp_path / "far"))
    assert [finding.check for finding in find_differences(found)] == ["drift", "range"]


def test_values_beyond_32_bits_are_an_error_that_counts_them(tmp_path: Path) -> None:
    x = normal(40, 1).astype(np.float64)
    x[:3, 2] = 1e300
    inputs = {"x": {"dtype": "float64", "shape": ["batch", WIDTH]}}
    with pytest.raises(InputError, match=r"x\[2\] is beyond what 32-bit floats hold in 3 samples"):
        measure(tmp_path, [{"x": x}], [{"x": x}], inputs=inputs, strata=())


@pytest.mark.parametrize(("dtype", "values"), [("bool", [False, True]), ("int64", [0, 1]), ("float32", [0.0, 1.0])])
def test_masks_alone_are_nothing_to_compare_and_so_no_pass(tmp_path: Path, dtype: str, values: list[Any]) -> None:
    x = np.array(values * 20 * WIDTH, dtype=dtype).reshape(40, WIDTH)
    inputs = {"x": {"dtype": dtype, "shape": ["batch", WIDTH]}}
    (sentence,) = findings(measure(tmp_path, [{"x": x}], [{"x": x}], inputs=inputs, strata=()))
    assert sentence.startswith("nothing was compared")


def test_a_model_adds_its_ranges_and_what_it_makes_of_samples(tmp_path: Path) -> None:
    found = measure(tmp_path, [{"x": normal(50, 1)}], [{"x": normal(700, 2)}], strata=(), onnx=write_scorer(tmp_path))
    assert {row.tensor for row in found.ranges} == {"x", "r"}
    assert {row.feature for row in found.features} >= {"x[0]", "joint direction 1", "output y norm"}
    (own, other) = found.run or (0, 0)
    assert own == 50
    assert other == MOST_RUN
    assert at(found, "output y norm", Place()).production_samples == other
    assert findings(found) == []


def test_the_range_of_a_tensor_is_the_largest_of_the_whole_set(tmp_path: Path) -> None:
    ours, theirs = normal(50, 1), normal(60, 2, scale=4)
    found = measure(tmp_path, [{"x": ours}], [{"x": theirs}], strata=(), onnx=write_scorer(tmp_path))
    (row,) = [row for row in found.ranges if row.tensor == "x"]
    largest = float(np.abs(ours).max())
    assert (row.set_largest, row.production_largest) == pytest.approx((largest, np.abs(theirs).max()))
    lost = np.maximum(np.abs(theirs.astype(float)) - largest, 0)
    assert row.clipped == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(theirs.astype(float)), rel=1e-5)


def test_a_reference_that_gives_no_number_is_an_error_that_counts(tmp_path: Path) -> None:
    onnx_file = write_scorer(tmp_path, "y = Sqrt(h)")
    with pytest.raises(StageError, match=r"y norm is NaN or Inf for \d+ of the 50 samples of the calibration set"):
        measure(tmp_path, [{"x": normal(50, 1)}], [{"x": normal(60, 2)}], strata=(), onnx=onnx_file)


def test_columns_that_come_and_go_are_an_error(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[batch, n] x) => (float[batch, n] y) { y = Relu(x) }'
    )
    (tmp_path / "model" / "onnx").mkdir(parents=True)
    onnx.save(model, tmp_path / "model" / "onnx" / "model.onnx")
    with pytest.raises(
        StageError, match=r"y\[0\], y\[1\], y\[2\] for some samples of both data sets and y\[0\], y\[1\]"
    ):
        measure(
            tmp_path,
            [{"x": normal(40, 1)[:, :3]}],
            [{"x": normal(40, 2)[:, :2]}],
            inputs={"x": {"dtype": "float32", "shape": ["batch", "length"]}},
            strata=(),
            onnx=str(tmp_path / "model" / "onnx" / "model.onnx"),
            outputs={"y": OutputDeclaration.model_validate({"kind": "score"})},
        )
