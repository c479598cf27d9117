from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock
from time import sleep
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.backends.trt_progress import BuildShare, progress_monitor
from tests.tasks.backends.tensorrt_api.recording import RELEASES

if TYPE_CHECKING:
    from tests.tasks.backends.fake_tensorrt import FakeTensorrt

TYPED = [release for release in RELEASES if not release.startswith("8.")]


@pytest.fixture
def share() -> BuildShare:
    """Of a build of two steps, of which none is done."""
    share = BuildShare()
    share.start("build", None, 2)
    return share


def steps_of(share: BuildShare, name: str, parent: str | None, steps: int) -> list[float]:
    """A whole phase; return the shares that its steps told."""
    share.start(name, parent, steps)
    told = [share.complete(name, step) for step in range(steps)]
    share.finish(name)
    return told


def test_each_step_of_the_only_phase_counts_the_same() -> None:
    assert steps_of(BuildShare(), "build", None, 4) == [0.25, 0.5, 0.75, 1.0]


def test_a_step_of_a_nested_phase_is_that_share_of_its_parents_step(share: BuildShare) -> None:
    assert steps_of(share, "first half", "build", 2) == [0.25, 0.5]
    assert share.complete("build", 0) == 0.5
    share.start("second half", "build", 2)
    assert steps_of(share, "third quarter", "second half", 2) == [0.625, 0.75]
    assert [share.complete("second half", step) for step in range(2)] == [0.75, 1.0]
    share.finish("second half")
    assert share.complete("build", 1) == 1.0


def test_phases_that_run_at_once_add_up(share: BuildShare) -> None:
    share.start("layers", "build", 4)
    share.start("weights", "build", 8)
    assert share.complete("layers", 0) == 0.125
    assert share.complete("weights", 0) == 0.1875
    assert share.complete("layers", 1) == 0.3125


def test_a_second_phase_of_one_step_waits_until_it_passes_the_first(share: BuildShare) -> None:
    assert steps_of(share, "first", "build", 2) == [0.25, 0.5]
    assert steps_of(share, "second", "build", 2) == [0.5, 0.5]
    assert share.complete("build", 0) == 0.5


def test_a_phase_that_ends_early_is_made_up_for_by_its_parents_step(share: BuildShare) -> None:
    share.start("tactics", "build", 10)
    assert share.complete("tactics", 0) == 0.05
    share.finish("tactics")
    assert share.complete("build", 0) == 0.5
    assert steps_of(share, "the rest", "build", 1) == [1.0]


def test_steps_that_were_not_reported_count_with_the_next(share: BuildShare) -> None:
    share.start("tactics", "build", 4)
    assert share.complete("tactics", 2) == 0.375


def test_a_phase_without_steps_leaves_its_part_to_the_phases_within_it(share: BuildShare) -> None:
    share.start("empty", "build", 0)
    assert steps_of(share, "tactics", "empty", 2) == [0.25, 0.5]
    share.finish("empty")
    assert share.complete("build", 0) == 0.5


def test_a_parent_that_never_began_is_the_whole_build() -> None:
    assert steps_of(BuildShare(), "tactics", "unknown", 2) == [0.5, 1.0]


def test_a_build_that_is_cancelled_within_its_phases_stays_where_it_was(share: BuildShare) -> None:
    share.start("tactics", "build", 4)
    assert share.complete("tactics", 0) == 0.125
    for name in ("build", "tactics", "tactics"):  # whichever ends first, and even twice
        share.finish(name)
    assert steps_of(share, "cleaning up", None, 16) == [0.125, 0.125, *(step / 16 for step in range(3, 17))]


# A phase is how many of its steps are left out, and its steps; a step is the phases within it.
whole = st.just(0)
cut_short = st.integers(0, 3)


def phases(left_out: st.SearchStrategy[int]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.tuples(left_out, st.lists(st.just([]), max_size=4)),
        lambda inner: st.tuples(left_out, st.lists(st.lists(inner, max_size=3), max_size=3)),
        max_leaves=12,
    )


def play(share: BuildShare, name: str, parent: str | None, phase: Any) -> list[float]:
    """Run through a phase; return the shares that were told."""
    left_out, steps = phase
    told: list[float] = []
    share.start(name, parent, len(steps))
    for number, inner in enumerate(steps[: max(len(steps) - left_out, 0)]):
        for index, nested in enumerate(inner):
            told += play(share, f"{name}.{number}.{index}", name, nested)
        told.append(share.complete(name, number))
    share.finish(name)
    return told


@settings(derandomize=True, deadline=None)
@given(phases(cut_short))
def test_whatever_phases_a_build_has_its_share_never_falls(build: Any) -> None:
    told = play(BuildShare(), "build", None, build)
    assert all(0 <= low <= high <= 1 for low, high in pairwise([0.0, *told]))


@settings(derandomize=True, deadline=None)
@given(phases(whole))
def test_a_build_whose_phases_all_end_is_told_whole(build: Any) -> None:
    told = play(BuildShare(), "build", None, build)
    assert told[-1:] == ([pytest.approx(1)] if build[1] else [])


# The monitor around it


def test_only_8_has_no_progress_monitor(fake: FakeTensorrt) -> None:
    monitor = progress_monitor(fake.module, lambda _share: None)
    assert (monitor is None) == fake.version.startswith("8.")


@pytest.mark.parametrize("fake", TYPED, indirect=True)
def test_the_monitor_tells_the_share_at_each_step_and_never_cancels(fake: FakeTensorrt) -> None:
    told: list[float] = []
    monitor = progress_monitor(fake.module, told.append)
    assert isinstance(monitor, fake.module.IProgressMonitor)
    monitor.phase_start("build", None, 2)
    monitor.phase_start("tactics", "build", 2)
    assert monitor.step_complete("tactics", 0) is True
    monitor.phase_finish("tactics")
    assert monitor.step_complete("build", 0) is True
    monitor.phase_finish("build")
    assert told == [0.25, 0.5]


@pytest.mark.parametrize("fake", TYPED, indirect=True)
def test_each_build_is_counted_from_its_own_beginning(fake: FakeTensorrt) -> None:
    told: list[float] = []
    for _ in range(2):
        monitor = progress_monitor(fake.module, told.append)
        monitor.phase_start("build", None, 2)
        monitor.step_complete("build", 0)
    assert told == [0.5, 0.5]


@pytest.mark.parametrize("fake", TYPED, indirect=True)
def test_threads_that_report_at_once_are_told_one_after_the_other(fake: FakeTensorrt) -> None:
    told: list[float] = []
    inside = Lock()

    def tell(share: float) -> None:
        assert inside.acquire(blocking=False), "two at once"
        sleep(0.002)
        told.append(share)
        inside.release()

    monitor = progress_monitor(fake.module, tell)
    monitor.phase_start("build", None, 1)

    def work(name: str) -> None:
        monitor.phase_start(name, "build", 4)
        for step in range(4):
            monitor.step_complete(name, step)
        monitor.phase_finish(name)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, "abcd"))
    assert len(told) == 16
    assert all(low <= high <= 1 for low, high in pairwise(told))
