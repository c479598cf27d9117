"""Rollouts for real, shortened: Triton, S3, a client at 50 requests a second; see docs/rollouts-live.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.rollout.live.play import SCENARIOS, play, play_kills

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.hardship(only=True)
KILLS = 10


@pytest.mark.parametrize("name", ["good", "damaged", "one slice", "crash"])
def test_a_good_canary_reaches_everybody_and_a_bad_one_nobody(tmp_path: Path, name: str) -> None:
    played = play(tmp_path / "live", name, SCENARIOS[name]())
    assert played.ended == ("finish" if name == "good" else "rollback")
    assert (played.faults, played.failed, played.strange) == ([], [], [])
    if name != "good":
        assert played.seen_by == set()


def test_whatever_is_killed_a_rollout_goes_on_and_never_jumps(tmp_path: Path) -> None:
    played = play_kills(tmp_path / "live", KILLS)
    assert (played.ended, len(played.kills)) == ("finish", KILLS)
    assert (played.faults, played.strange, played.failed_while_up) == ([], [], [])
