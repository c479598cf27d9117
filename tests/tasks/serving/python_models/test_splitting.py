from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.serving.python_models.splitting import Rollout
from tests.triton_stand_in import ask

ROLLOUT = Rollout(
    id="0123456789ab",
    step=1,
    weight=5.0,
    mirror=0.0,
    noise=0.0,
    key="user",
    slices=(),
    folder=Path("evidence"),
    shard_s=30,
    timeout_s=1,
    keep_inputs=frozenset(),
    canary=SimpleNamespace(),  # type: ignore[arg-type]
)
USERS = [f"user-{number}" for number in range(20_000)]


def users_at(weight: float, rollout_id: str = ROLLOUT.id) -> set[str]:
    rollout = replace(ROLLOUT, weight=weight, id=rollout_id)
    return {user for user in USERS if rollout.takes(rollout.asker(ask({"user": user})))}


def test_the_split_is_the_hash_of_the_rollout_and_the_key() -> None:
    for user in USERS[:500]:
        digest = hashlib.blake2b(f"0123456789ab\0{user}".encode(), digest_size=8)
        asker = ROLLOUT.asker(ask({"user": user}))
        assert asker.key == digest.hexdigest()
        assert ROLLOUT.takes(asker) == (int.from_bytes(digest.digest(), "big") / 2**64 < 0.05)


def test_a_user_who_is_in_stays_in_as_the_weight_rises() -> None:
    shares = [users_at(weight) for weight in (0, 1, 5, 25, 100)]
    assert all(less < more for less, more in pairwise(shares))


def test_weights_of_0_and_100_are_exact_and_others_near() -> None:
    assert users_at(0) == set()
    assert users_at(100) == set(USERS)
    assert len(users_at(5)) / len(USERS) == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize("place", [0, 2**64 - 1])
def test_the_ends_of_the_hash_are_on_the_right_side(place: int) -> None:
    asker = replace(ROLLOUT.asker(ask()), place=place)
    assert replace(ROLLOUT, weight=100.0).takes(asker)
    assert not replace(ROLLOUT, weight=0.0).takes(asker)


def test_another_rollout_takes_other_users() -> None:
    first, second = users_at(5), users_at(5, "ba9876543210")
    assert len(first & second) / len(first) == pytest.approx(0.05, abs=0.03)


def test_without_its_parameter_the_requests_id_is_the_key_and_without_that_chance() -> None:
    named = [ROLLOUT.asker(ask(name="request-1")) for _ in range(2)]
    assert named[0] == named[1]
    assert named[0].key
    nameless = [ROLLOUT.asker(ask()) for _ in range(2)]
    assert nameless[0].place != nameless[1].place
    assert [one.key for one in nameless] == ["", ""]


def test_a_number_is_a_key_as_its_text() -> None:
    assert ROLLOUT.asker(ask({"user": 7})).key == ROLLOUT.asker(ask({"user": "7"})).key


@pytest.mark.parametrize(
    ("weight", "arms"), [(0.0, {"canary": False, "production": False}), (5.0, {"canary": True, "production": False}),
                         (100.0, {"canary": True, "production": True})],
)  # fmt: skip
def test_a_splitter_outside_chooses_but_where_nobody_or_everybody_is_the_canary_s(
    weight: float, arms: dict[str, bool]
) -> None:
    rollout = replace(ROLLOUT, weight=weight, arm="x-enginegate-arm")
    for arm, taken in arms.items():
        askers = [rollout.asker(ask({"user": user, "x-enginegate-arm": arm})) for user in USERS[:300]]
        assert {rollout.takes(asker) for asker in askers} == {taken}
    unnamed = [rollout.takes(rollout.asker(ask({"user": user}))) for user in USERS[:300]]
    assert set(unnamed) == {weight == 100.0}
