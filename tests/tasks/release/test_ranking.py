from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.release.ranking import choose_passing
from tests.tasks.tiny import cell, make_outcome, manifest_of, timed_at

if TYPE_CHECKING:
    from tasks.records import EngineManifest
    from tasks.store.local import LocalStore


def engine(
    store: LocalStore,
    precision: str,
    speedup: float,
    *,
    off: float = 0.02,
    noise: float = 0.0001,
    p50_ms: float | None = None,
) -> EngineManifest:
    """An engine so much faster than a reference of 6 ms, with bounds of `off` around it."""
    manifest = manifest_of(store, make_outcome(store, engine=cell(precision), noise=noise))
    timed = timed_at(manifest.benchmark, 6.0 / speedup, off=off)
    if p50_ms is not None:  # as on another day: the reference was slower too
        slow = timed_at(manifest.benchmark, p50_ms)
        timed = timed.model_copy(update={"engine": slow.engine})
    return manifest.model_copy(update={"benchmark": timed})


def test_the_larger_speed_up_wins_although_its_latency_was_taken_on_a_slower_day(store: LocalStore) -> None:
    half, quantized = engine(store, "fp16", 1.23, p50_ms=26.7), engine(store, "int8", 1.31, p50_ms=34.9)
    choice = choose_passing([half, quantized])
    assert choice is not None
    assert choice.manifest is quantized
    assert choice.reason == "the fastest of 2 that passed: cpu int8 (1.31x, 1.28 to 1.34), apart from the others"


def test_where_bounds_overlap_the_more_accurate_is_chosen_and_it_is_said_that_speed_is_not_decided(
    store: LocalStore,
) -> None:
    half = engine(store, "fp16", 1.23, off=0.05, noise=0.0001)
    quantized = engine(store, "int8", 1.31, off=0.05, noise=0.0005)
    for engines in ([half, quantized], [quantized, half]):
        choice = choose_passing(engines)
        assert choice is not None
        assert choice.manifest is half
        assert "speed is not decided between cpu int8 (1.31x, 1.24 to 1.38), cpu fp16 (1.23x, 1.17 to 1.29)" in (
            choice.reason
        )
    swapped = engine(store, "fp16", 1.23, off=0.05, noise=0.0005), engine(store, "int8", 1.31, off=0.05, noise=0.0001)
    other = choose_passing(swapped)
    assert other is not None
    assert other.manifest is swapped[1]


def test_of_engines_as_fast_and_as_accurate_the_higher_precision_is_chosen(store: LocalStore) -> None:
    engines = [engine(store, precision, 1.5) for precision in ("int8", "fp32", "fp16")]
    choice = choose_passing(engines)
    assert choice is not None
    assert choice.manifest is engines[1]


def test_without_a_speed_up_of_every_one_the_median_latency_decides_and_the_reason_says_so(store: LocalStore) -> None:
    half, quantized = engine(store, "fp16", 1.23, p50_ms=26.7), engine(store, "int8", 1.31, p50_ms=34.9)
    untimed = quantized.benchmark.model_copy(update={"speedup": {}, "speedup_interval": {}, "pytorch": {}})
    choice = choose_passing([half, quantized.model_copy(update={"benchmark": untimed})])
    assert choice is not None
    assert choice.manifest is half
    assert "were not timed in turns" in choice.reason


def test_only_what_passed_is_chosen(store: LocalStore) -> None:
    failed, slow = engine(store, "int8", 3.0, noise=0.3), engine(store, "fp32", 1.1)
    choice = choose_passing([failed, slow])
    assert choice is not None
    assert (choice.manifest, choice.reason) == (slow, "the only engine that passed")
    assert choose_passing([failed]) is None
    assert choose_passing([]) is None
