from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.errors import InputError
from tasks.model.model_directory import read_model_directory
from tasks.process.child import ignore_progress
from tasks.records import ReferenceArtifact
from tasks.rollout import reference_sample
from tasks.rollout.reference_sample import SampledPair, compare_with_reference, draw_pairs
from tasks.samples.npz import load_arrays, shard_paths
from tasks.store.stage_cache import StageResult
from tests.tasks.canary import Canary
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.tiny import make_features, put_shards, score
from tests.tasks.traffic import Traffic
from validation.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.process.context import StageContext


@pytest.fixture
def shelf(context: StageContext) -> Canary:
    shelf = Canary(MemoryObjects(), context).stock()
    shelf.start()
    return shelf


def live(shelf: Canary, n: int = 400, *, error: float = 0.0001, seed: int = 0, keeps: bool = True, **more: Any) -> None:
    """Pairs with their inputs, whose production is right and whose canary is off."""
    features = make_features(n, seed)
    right = score(features)
    Traffic(shelf, first=seed).pairs(
        n,
        **{
            "production.score": right,
            "canary.score": (right + np.random.default_rng(seed).normal(0, error, n)).astype(np.float32),
            **({"input.features": features} if keeps else {}),
            **more,
        },
    )


def draw(shelf: Canary, most: int = 400, seed: int = 0) -> list[SampledPair]:
    return draw_pairs(
        shelf.registry,
        shelf.history,
        shelf.state,
        shelf.canary.manifest,
        most=most,
        seed=seed,
        on_progress=ignore_progress,
    )


def rows(pairs: list[SampledPair]) -> list[bytes]:
    return [pair.inputs["features"].tobytes() for pair in pairs]


@pytest.fixture
def _numpy_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's outputs, by numpy."""

    def run(context: StageContext, _directory: Any, data: Any) -> StageResult[ReferenceArtifact]:
        with context.store.scratch() as folder:
            shards = [load_arrays(path) for path in shard_paths(context.store.fetch(data.inputs, folder / "inputs"))]
        outputs = put_shards(context.store, [{"score": score(shard["features"])} for shard in shards])
        return StageResult(result=ReferenceArtifact(outputs=outputs), cached=False, seconds=0.0)

    monkeypatch.setattr(reference_sample, "run_reference", run)


def test_the_draw_is_that_of_its_seed_and_no_larger_than_asked(shelf: Canary) -> None:
    live(shelf, seed=1)
    live(shelf, seed=2)
    first, again, other = draw(shelf, 50), draw(shelf, 50), draw(shelf, 50, seed=7)
    assert len(first) == 50
    assert rows(first) == rows(again)
    assert set(rows(first)) != set(rows(other))
    assert set(rows(first)) <= set(rows(draw(shelf, 100)))


def test_noise_and_pairs_that_failed_are_not_drawn(shelf: Canary) -> None:
    noise = np.zeros(40, bool)
    noise[:10] = True
    failed = np.array(["error"] * 20 + [""] * 20, "U7")
    live(shelf, 40, noise=noise, failed=failed)
    assert len(draw(shelf)) == 20


def test_without_kept_inputs_it_says_what_may_be_kept(shelf: Canary) -> None:
    live(shelf, keeps=False)
    with pytest.raises(InputError, match=r"no pair was kept with all of its inputs.*serving.sampling"):
        draw(shelf)


@pytest.mark.usefixtures("_numpy_reference")
@pytest.mark.parametrize(("error", "outcome"), [(0.0001, Outcome.PASS), (0.3, Outcome.FAIL)])
def test_both_engines_are_judged_against_the_reference(
    shelf: Canary, write_model: Callable[..., Path], error: float, outcome: Outcome
) -> None:
    live(shelf, error=error)
    directory = read_model_directory(write_model())
    found = compare_with_reference(shelf.context, directory, shelf.canary.manifest, draw(shelf))
    assert (found.samples, found.canary.outcome, found.production.outcome) == (400, outcome, Outcome.PASS)


@pytest.mark.usefixtures("_numpy_reference")
def test_a_user_with_many_pairs_is_one_sample(shelf: Canary, write_model: Callable[..., Path]) -> None:
    live(shelf, key=np.array(["ab" * 8] * 400, "U16"))
    directory = read_model_directory(write_model())
    found = compare_with_reference(shelf.context, directory, shelf.canary.manifest, draw(shelf))
    assert found.canary.outcome is not Outcome.PASS
