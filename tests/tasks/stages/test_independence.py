from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tasks.records import ReferenceArtifact
from tasks.samples.npz import load_arrays
from tasks.stages.build import build_engine
from tasks.stages.compare import compare_engine
from tasks.stages.independence import count_independent, independence_in_words, load_groups
from tests.tasks.tiny import job, make_features, put_data, put_model, put_shards, score, tiny_spec
from validation.verdict import Outcome, decide

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import EngineJob
    from tasks.samples.npz import Arrays
    from tasks.stages.independence import IndependentSamples
    from tests.tasks.in_process import InProcess

TEXTS = {
    "inputs": {
        "ids": {"dtype": "int64", "shape": ["batch", "sequence"]},
        "mask": {"dtype": "int64", "shape": ["batch", "sequence"]},
    },
    "dims": {"batch": {"min": 1, "opt": 4, "max": 8}, "sequence": {"min": 4, "opt": 8, "max": 16}},
}
WIDE = {"inputs": {"features": {"dtype": "float32", "shape": ["batch", 64]}}}


def count(
    context: StageContext, *shards: Arrays, beside: list[Arrays] | None = None, **spec: object
) -> IndependentSamples:
    return count_independent(context, tiny_spec(**spec), put_data(context.store, shards, beside)).result


def test_samples_that_differ_are_independent_and_nothing_is_stored(here: InProcess) -> None:
    found = count(here, {"features": make_features(30)}, {"features": make_features(9, seed=1)})
    assert (found.samples, found.independent, found.groups) == (39, 39, None)
    assert independence_in_words(found) == "39 samples, no two alike"


def test_exact_repeats_count_once_in_whatever_shard_they_lie(here: InProcess, tmp_path: Path) -> None:
    features = make_features(30)
    found = count(here, {"features": np.concatenate([features, features[:5]])}, {"features": features[::2]})
    assert (found.samples, found.independent, found.named) == (50, 30, False)
    assert independence_in_words(found) == "30 in 50 samples: 20 repeat another exactly"
    assert found.groups is not None
    groups = load_groups(here.store.fetch(found.groups, tmp_path / "groups"))
    assert [batch.tolist() for batch in groups.batches] == [[*range(30), *range(5)], [*range(0, 30, 2)]]
    assert groups.sizes.sum() == 50


def test_padding_makes_no_new_sample(here: InProcess) -> None:
    short = {"ids": np.array([[5, 6, 7, 8]] * 2), "mask": np.ones((2, 4), int)}
    short["ids"][1, 0] = 9
    long = {name: np.pad(array, ((0, 0), (0, 4))) for name, array in short.items()}
    assert count(here, short, long, **TEXTS).independent == 2


def test_named_groups_are_taken_whatever_the_inputs_are(here: InProcess) -> None:
    shards = [{"features": make_features(6, seed=seed)} for seed in range(2)]
    beside = [{"group": np.array(list("aabbcd"))}, {"group": np.array(list("ddaeee"))}]
    found = count(here, *shards, beside=beside)
    assert (found.samples, found.independent, found.named) == (12, 5, True)
    assert independence_in_words(found) == "5 in 12 samples, by `group`"
    same = [{"features": np.zeros((6, 4), np.float32)}] * 2
    assert count(here, *same, beside=[{"group": np.arange(6) + 6 * n} for n in range(2)]).independent == 12


@pytest.mark.parametrize("beside", [{"label": np.zeros(30)}, {}])
def test_it_is_told_whether_there_are_labels(here: InProcess, beside: Arrays) -> None:
    assert count(here, {"features": make_features(30)}, beside=[beside]).labelled == ("label" in beside)


def wide(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((samples, 64)).astype(np.float32)


def test_near_repeats_are_told_and_stay_independent(here: InProcess) -> None:
    features = wide(200)
    near = features[:40] + np.float32(1e-5)
    found = count(here, {"features": features}, {"features": near}, **WIDE)
    assert (found.independent, found.near, found.searched, found.groups) == (240, 40, 240, None)
    assert "! 40 of 240 are nearly the same as another: if they belong together, name" in independence_in_words(found)
    named = [{"group": np.arange(200)}, {"group": np.arange(40)}]
    found = count(here, {"features": features}, {"features": near}, beside=named, **WIDE)
    assert (found.independent, found.near) == (200, 0)


def test_no_more_are_searched_than_can_be(here: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.stages.independence.MOST_SEARCHED", 50)
    found = count(here, *({"features": wide(60, seed)} for seed in range(3)), **WIDE)
    assert (found.near, found.searched) == (0, 50)


def repeated_job(context: StageContext, folder: Path) -> EngineJob:
    """The job of an engine that is right, on 40 samples that all come ten times."""
    features = np.tile(make_features(40), (10, 1))
    shards = [{"features": features[:150]}, {"features": features[150:]}]
    data = put_data(context.store, shards)
    outputs = [{"score": score(shard["features"])} for shard in shards]
    reference = ReferenceArtifact(outputs=put_shards(context.store, outputs))
    counted = count_independent(context, tiny_spec(), data).result
    made = job(context.store, put_model(context.store, folder), spec=tiny_spec(), data=data, reference=reference)
    return made.model_copy(update={"groups": counted.groups})


def test_an_engine_is_judged_on_the_independent_samples(here: InProcess, tmp_path: Path) -> None:
    work = repeated_job(here, tmp_path / "onnx")
    engine = build_engine(here, work).result
    comparison = compare_engine(here, work, engine).result.comparison
    verdict = decide(work.policy, comparison)
    assert (comparison.samples, comparison.independent, verdict.outcome) == (400, 40, Outcome.INCONCLUSIVE)
    assert "on 40 independent samples (400 rows), fewer than the 300 that decide" in verdict.rules[0].sentence
    ungrouped = work.model_copy(update={"groups": None})
    again = compare_engine(here, ungrouped, engine)
    assert not again.cached, "groups are a part of the key"
    assert again.result.comparison.independent is None


def test_a_job_without_groups_reads_as_it_did_before_there_were_any(here: InProcess, tmp_path: Path) -> None:
    work = repeated_job(here, tmp_path / "onnx")
    assert "groups" in work.model_dump(mode="json")
    assert "groups" not in work.model_copy(update={"groups": None}).model_dump(mode="json")
    assert type(work).model_validate(work.model_dump(mode="json")) == work
    assert work.groups is not None
    folder = here.store.fetch(work.groups, tmp_path / "groups")
    assert set(load_arrays(folder / "00000.npz")) == {"group"}
