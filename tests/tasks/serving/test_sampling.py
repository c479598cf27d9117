from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.serving.sampling import OTHER, Sampler, Settings, write_shard

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NOON = 1_796_083_200.0 + 43_200  # 2026-12-01
DAY = 86_400


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        folder=tmp_path / "traffic",
        rate=1.0,
        most_a_day=20,
        every_hours=24,
        retention_days=7,
        seed=0,
        by=None,
        slices=(),
        group=None,
        redacted={},
    )


def offer(sampler: Sampler, numbers: range, **parameters: object) -> None:
    for number in numbers:
        sampler.offer({"x": np.full((1, 2), number, np.float32)}, parameters)


def kept(settings: Settings, name: str = "x") -> list[Any]:
    found: list[NDArray[Any]] = []
    for path in sorted(settings.folder.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            found += list(arrays[name])
    return [np.ravel(one)[0].item() for one in found]


def test_no_more_is_kept_than_the_most_a_day_and_all_have_the_same_chance(settings: Settings) -> None:
    counts: Counter[float] = Counter()
    for seed in range(100):
        seeded = replace(settings, seed=seed, folder=settings.folder / str(seed))
        sampler = Sampler(seeded, "a", 1, Clock())
        offer(sampler, range(100))
        sampler.close()
        numbers = kept(seeded)
        assert len(set(numbers)) == len(numbers) == 20
        counts.update(numbers)
    # 20 expected of each number with a standard deviation of 4: the early ones, and the late ones, are as frequent.
    assert abs(sum(counts[number] for number in range(50)) - 1000) < 100


def test_the_same_seed_keeps_the_same_requests(settings: Settings, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        sampler = Sampler(replace(settings, folder=tmp_path / name), "a", 1, Clock())
        offer(sampler, range(200))
        sampler.close()
        found.append(sorted(kept(replace(settings, folder=tmp_path / name))))
    assert found[0] == found[1]


def test_a_rate_is_the_share_that_may_be_kept(settings: Settings) -> None:
    sampler = Sampler(replace(settings, rate=0.1, most_a_day=10_000), "a", 1, Clock())
    offer(sampler, range(2000))
    sampler.close()
    assert 140 < len(kept(settings)) < 260


def test_each_value_gets_an_equal_part_however_rare_it_is(settings: Settings) -> None:
    sampler = Sampler(replace(settings, by="level"), "a", 1, Clock())
    offer(sampler, range(300), level="often")
    offer(sampler, range(10), level="rare")
    offer(sampler, range(300, 600), level="often")
    sampler.close()
    assert Counter(kept(settings, "slice.level")) == {"often": 10, "rare": 10}


def test_values_without_end_do_not_become_slices_without_end(settings: Settings) -> None:
    sampler = Sampler(replace(settings, slices=("user",), most_a_day=500), "a", 1, Clock())
    for number in range(200):
        offer(sampler, range(1), user=f"u{number}")
    sampler.close()
    assert Counter(kept(settings, "slice.user"))[OTHER] == 140


def test_values_beyond_what_the_reservoir_holds_leave_the_others_in_place(settings: Settings) -> None:
    sampler = Sampler(replace(settings, by="user", most_a_day=3), "a", 1, Clock())
    for number in range(10):
        offer(sampler, range(1), user=f"u{number}")
    sampler.close()
    assert kept(settings, "slice.user") == ["u0", "u1", "u2"]


def test_only_named_parameters_are_kept_and_redacted_inputs_never(settings: Settings) -> None:
    sampler = Sampler(replace(settings, redacted={"x": -1.0}, slices=("level",)), "a", 1, Clock())
    sampler.offer({"x": np.ones((1, 2)), "y": np.ones(1)}, {"level": "b1", "token": "secret"})
    sampler.close()
    (path,) = settings.folder.rglob("*.npz")
    with np.load(path) as found:
        assert sorted(found) == ["group", "slice.level", "x", "y"]
        assert found["x"].tolist() == [[-1, -1]]
    assert b"secret" not in path.read_bytes()


def test_samples_of_one_request_are_of_one_group(settings: Settings) -> None:
    sampler = Sampler(settings, "a", 1, Clock())
    for _ in range(2):
        sampler.offer({"x": np.zeros((3, 2))}, {})
    sampler.close()
    assert sorted(Counter(kept(settings, "group")).values()) == [3, 3]


def test_samples_of_each_shape_have_a_shard_of_their_own(settings: Settings) -> None:
    sampler = Sampler(settings, "a", 1, Clock())
    for sequence in (3, 4, 3):
        sampler.offer({"x": np.zeros((1, sequence))}, {})
    sampler.close()
    shapes = sorted(np.load(path)["x"].shape for path in settings.folder.rglob("*.npz"))
    assert shapes == [(1, 4), (2, 3)]


def test_a_day_that_ends_is_written_and_another_begins(settings: Settings) -> None:
    clock = Clock()
    sampler = Sampler(settings, "a", 1, clock)
    offer(sampler, range(30))
    clock.now += DAY
    offer(sampler, range(30))
    sampler.close()
    days = Counter(path.parent.name for path in settings.folder.rglob("*.npz"))
    assert days == {"2026-12-01": 1, "2026-12-02": 1}


def test_a_server_that_is_started_again_keeps_no_more_that_day(settings: Settings) -> None:
    for _ in range(3):
        sampler = Sampler(settings, "a", 1, Clock())
        offer(sampler, range(15))
        sampler.close()
    assert len(kept(settings)) == 20


def test_instances_share_the_most_a_day_and_do_not_clash(settings: Settings) -> None:
    samplers = [Sampler(settings, name, 2, Clock()) for name in ("scorer_0_0", "scorer_0_1")]
    for sampler in samplers:
        offer(sampler, range(50))
    for sampler in samplers:
        sampler.close()
    assert len(kept(settings)) == 20
    assert len(list(settings.folder.rglob("*.npz"))) == 2


def test_a_request_that_is_changed_afterwards_is_kept_as_it_was(settings: Settings) -> None:
    sampler, array = Sampler(settings, "a", 1, Clock()), np.ones((1, 2))
    sampler.offer({"x": array}, {})
    array[:] = 9  # Triton's memory is used again for the next request
    sampler.close()
    assert kept(settings) == [1.0]


def test_old_days_go_and_nothing_else(settings: Settings) -> None:
    for name in ("2026-11-23", "2026-11-24", "keep-me"):
        (settings.folder / name).mkdir(parents=True)
        (settings.folder / name / "a.npz").write_bytes(b"")
    sampler = Sampler(settings, "a", 1, Clock())
    sampler.close()
    assert sorted(path.name for path in settings.folder.iterdir()) == ["2026-11-24", "keep-me"]


def test_a_shard_is_never_written_over_and_leaves_nothing_when_it_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    first = write_shard(settings.folder, "a", {"x": np.ones(2)})
    before = first.read_bytes()
    with pytest.raises(FileExistsError):
        write_shard(settings.folder, "a", {"x": np.zeros(2)})
    assert first.read_bytes() == before
    assert os.listdir(settings.folder) == [first.name]  # noqa: PTH208 - hidden files too


def test_shards_are_for_their_owner_alone(settings: Settings) -> None:
    path = write_shard(settings.folder, "a", {"x": np.ones(2)})
    assert (path.stat().st_mode & 0o777, settings.folder.stat().st_mode & 0o777) == (0o600, 0o700)
