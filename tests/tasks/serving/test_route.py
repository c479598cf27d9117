from __future__ import annotations

import json
from typing import Any

import pytest

from tasks.errors import RefusedError
from tasks.serving.route import Route, canary_beside
from tests.real_triton import route_of, with_canary

DIGEST = f"sha256:{'0' * 64}"
BASE = {**route_of(1, {"one": (1, 8)}), "engine_id": "scorer-cpu-fp32@1", "manifest": DIGEST}
BASE["inputs"]["tokens"]["shared"] = False


def changed(**changes: Any) -> Route:
    return Route.model_validate_json(json.dumps({**BASE, **changes}))


def test_a_route_of_an_older_release_is_read_and_has_no_rollout() -> None:
    older = {name: value for name, value in BASE.items() if name != "rollout"}
    assert Route.model_validate_json(json.dumps(older)).rollout is None


@pytest.mark.parametrize("arm", [None, "x-enginegate-arm"])
def test_a_route_with_a_rollout_is_written_as_the_router_reads_it(tmp_path: Any, arm: str | None) -> None:
    document = with_canary(BASE, tmp_path, {"next": 8}, weight=5.0, mirror=0.05, arm=arm)
    document["rollout"]["canary"]["inputs"]["tokens"]["shared"] = False
    route = Route.model_validate_json(json.dumps(document))
    assert route.model_dump(mode="json")["rollout"] == document["rollout"]
    assert route.models == {"one", "next"}
    assert route.following(None).models == {"one"}


def test_other_plans_and_buckets_are_no_other_interface() -> None:
    canary = changed(
        plans=[{"model": "next", "dims": {"batch": {"min": 1, "max": 2}, "sequence": {"min": 8, "max": 8}}}]
    )
    assert [plan.model for plan in canary_beside(changed(), canary).plans] == ["next"]


TOKENS = {"dtype": "int64", "shape": ["batch", "sequence"], "pad": 0, "shared": False}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": {"ids": TOKENS}}, "input ids is int64 ['batch', 'sequence'], and production's is not there"),
        ({"inputs": {"tokens": TOKENS, "mask": TOKENS}}, "input mask is int64"),
        (
            {"inputs": {"tokens": {**TOKENS, "dtype": "int32"}}},
            "input tokens is int32 ['batch', 'sequence'], and produc",
        ),
        ({"inputs": {"tokens": {**TOKENS, "shape": ["batch", 8]}}}, "input tokens is int64 ['batch', 8]"),
        ({"outputs": {}}, "output score is not there, and production's is float32 ['batch']"),
        ({"outputs": {"score": {"dtype": "float16", "axes": ["batch"]}}}, "output score is float16"),
        ({"outputs": {"score": {"dtype": "float32", "axes": ["batch", 2]}}}, "output score is float32 ['batch', 2]"),
    ],
)
def test_what_clients_would_see_differ_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        canary_beside(changed(), changed(**changes))
    assert words in str(refused.value)
