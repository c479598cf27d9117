from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.real_triton import route_of, write_route
from tests.triton_stand_in import Question, Server, ask, start_router

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Arrays = Mapping[str, np.ndarray[Any, Any]]

RANGE = {"one": (1, 512)}
BUCKETS = {"small": 8, "large": 32}


def scored(feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return {"score": feeds["tokens"].sum(axis=1, dtype=np.float32)}


def tokens(samples: int, sequence: int, first: int = 1) -> np.ndarray[Any, Any]:
    return np.arange(first, first + samples * sequence).reshape(samples, sequence)


@pytest.fixture
def server() -> Server:
    return Server(engines=dict.fromkeys(("one", "small", "large"), scored))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Server) -> Callable[..., Any]:
    return lambda route, **config: start_router(monkeypatch, tmp_path / "scorer", server, route, **config)


def answered(router: Any, *arrays: np.ndarray[Any, Any]) -> None:
    """Ask all at once; each must get the scores of its own samples."""
    responses = router.execute([ask(tokens=array) for array in arrays])
    for array, response in zip(arrays, responses, strict=True):
        np.testing.assert_array_equal(response.arrays()["score"], array.sum(axis=1))


def test_requests_of_one_shape_share_a_call_and_each_gets_its_own_scores(
    start: Callable[..., Any], server: Server
) -> None:
    answered(start(route_of(1, RANGE)), tokens(1, 5), tokens(3, 5, 100), tokens(2, 5, 900))
    assert server.calls == [("one", {"tokens": (6, 5)})]


def test_requests_that_differ_where_no_plan_is_fixed_are_called_apart(
    start: Callable[..., Any], server: Server
) -> None:
    answered(start(route_of(1, RANGE)), tokens(1, 5), tokens(1, 6), tokens(2, 5, 70))
    assert sorted(shapes["tokens"] for _, shapes in server.calls) == [(1, 6), (3, 5)]


def test_requests_that_differ_are_padded_together_where_the_plan_fixes_the_dimension(
    start: Callable[..., Any], server: Server
) -> None:
    answered(start(route_of(1, BUCKETS)), tokens(1, 5), tokens(1, 8), tokens(2, 3, 70))
    assert server.calls == [("small", {"tokens": (4, 8)})]


def test_a_short_request_does_not_pay_for_a_long_one_that_came_with_it(
    start: Callable[..., Any], server: Server
) -> None:
    answered(start(route_of(1, BUCKETS)), tokens(1, 5), tokens(1, 30), tokens(1, 6))
    assert sorted(server.calls) == [("large", {"tokens": (1, 32)}), ("small", {"tokens": (2, 8)})]


def test_plans_of_one_batch_size_are_filled_before_another_call_is_made(
    start: Callable[..., Any], server: Server
) -> None:
    route = route_of(1, BUCKETS)
    for plan in route["plans"]:
        plan["dims"]["batch"] = {"min": 8, "max": 8}
    answered(start(route), tokens(1, 30), tokens(1, 31), tokens(6, 32))
    assert server.calls == [("large", {"tokens": (8, 32)})]


def test_an_extent_outside_fails_that_request_alone_and_says_what_is_allowed(start: Callable[..., Any]) -> None:
    router = start(route_of(1, BUCKETS))
    good, bad = router.execute([ask(tokens=tokens(1, 5)), ask(tokens=tokens(1, 33))])
    assert good.arrays()["score"] == [15]
    assert bad.error().message() == "sequence is 33, and model scorer takes 1 to 32"


def test_an_engine_that_fails_fails_the_requests_of_its_call_alone(start: Callable[..., Any], server: Server) -> None:
    def refuse(feeds: Arrays) -> Arrays:
        raise ValueError(f"no kernel for {feeds['tokens'].shape}")

    server.engines["large"] = refuse
    router = start(route_of(1, BUCKETS))
    small, large = router.execute([ask(tokens=tokens(1, 5)), ask(tokens=tokens(1, 30))])
    assert small.arrays()["score"] == [15]
    assert large.error().message() == "large: no kernel for (1, 32)"
    assert len(server.calls) == 2  # the same engine is not asked again


def test_a_shared_input_is_never_mixed(start: Callable[..., Any], server: Server) -> None:
    route = route_of(1, RANGE)
    route["inputs"]["scale"] = {"dtype": "float32", "shape": ["batch"], "pad": 0, "shared": True}
    server.engines["one"] = lambda feeds: {"score": scored(feeds)["score"] * feeds["scale"][0]}
    router = start(route)
    scales = [np.full(1, value, np.float32) for value in (1, 2, 1)]
    found = router.execute([ask(tokens=tokens(1, 5), scale=scale) for scale in scales])
    assert [response.arrays()["score"][0] for response in found] == [15, 30, 15]
    assert len(server.calls) == 2


def test_a_route_that_is_replaced_holds_from_the_next_call_on(
    start: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    router = start(route_of(1, RANGE))
    answered(router, tokens(1, 5))
    server.engines["next"] = scored
    write_route(tmp_path / "scorer", route_of(2, {"next": (1, 512)}))
    answered(router, tokens(1, 5))
    assert [model for model, _ in server.calls] == ["one", "next"]
    assert server.total("enginegate_route_move") == 2


def test_an_engine_that_goes_during_a_call_is_asked_for_at_its_new_name_once(
    start: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    router = start(route_of(1, RANGE))
    del server.engines["one"]
    server.engines["next"] = scored
    server.on_call = lambda: write_route(tmp_path / "scorer", route_of(2, {"next": (1, 512)}))
    answered(router, tokens(1, 5), tokens(2, 5))
    assert [model for model, _ in server.calls] == ["one", "next"]


def test_an_engine_that_is_gone_for_good_is_an_error(start: Callable[..., Any], server: Server) -> None:
    router = start(route_of(1, RANGE))
    server.engines.clear()
    (response,) = router.execute([ask(tokens=tokens(1, 5))])
    assert response.error().message() == "one: Model one is not ready."


@pytest.mark.parametrize("content", ["{", "{}", '{"schema_version": 2}'])
def test_a_route_that_cannot_be_read_leaves_the_one_before(
    start: Callable[..., Any], server: Server, tmp_path: Path, content: str
) -> None:
    router = start(route_of(7, RANGE))
    (tmp_path / "scorer" / "route.json").write_text(content)
    answered(router, tokens(1, 5))
    assert "move 7 goes on" in server.logged[0]


def test_a_router_without_a_route_does_not_load(start: Callable[..., Any]) -> None:
    with pytest.raises(Exception, match=r"route.json: no route to serve \(.*schema_version None"):
        start({})


def test_what_is_counted_adds_up(start: Callable[..., Any], server: Server) -> None:
    router = start(route_of(3, BUCKETS))
    router.execute([ask(tokens=tokens(1, 5)), ask(tokens=tokens(2, 8)), ask(tokens=tokens(1, 99))])
    router.finalize()
    assert server.total("enginegate_requests_total", model="scorer", plan="small") == 2
    assert server.total("enginegate_calls_total", samples="4") == 1
    assert server.total("enginegate_elements_total") == 24
    assert server.total("enginegate_padding_total") == 3
    assert server.total("enginegate_errors_total", fault="request") == 1
    assert server.total("enginegate_route_move") == 3


def sampling(folder: Path, **fields: object) -> dict[str, object]:
    return {"folder": str(folder), "rate": 1.0, "most_a_day": 10, "retention_days": 7, **fields}


def test_answered_requests_are_sampled_and_written_when_the_router_ends(
    start: Callable[..., Any], server: Server, tmp_path: Path
) -> None:
    router = start(route_of(1, RANGE, sampling(tmp_path / "traffic", slices=["level"])))
    router.execute([ask({"level": 3}, tokens=tokens(2, 5)), ask(tokens=tokens(1, 999))])
    router.finalize()
    (shard,) = (tmp_path / "traffic").rglob("*.npz")
    with np.load(shard, allow_pickle=False) as found:
        assert sorted(found["tokens"].tolist()) == tokens(2, 5).tolist()
        assert found["slice.level"].tolist() == ["3", "3"]
    assert server.total("enginegate_sampled_total") == 2


def test_the_warm_up_is_no_traffic(start: Callable[..., Any], tmp_path: Path) -> None:
    warm_up = [{"name": "a", "batch_size": 2}, {"name": "b", "batch_size": 1, "count": 2}]
    router = start(route_of(1, RANGE, sampling(tmp_path / "traffic")), model_warmup=warm_up)
    router.execute([ask(tokens=tokens(1, 5, 100)), ask(tokens=tokens(1, 5, 100))])
    for _ in range(2):
        router.execute([ask(tokens=tokens(1, 5, 200))])
    router.execute([ask(tokens=tokens(1, 5, 300))])
    router.finalize()
    (shard,) = (tmp_path / "traffic").rglob("*.npz")
    with np.load(shard) as found:
        assert found["tokens"].tolist() == tokens(1, 5, 300).tolist()


def test_a_sampler_that_fails_fails_no_request(start: Callable[..., Any], server: Server, tmp_path: Path) -> None:
    (tmp_path / "traffic").write_text("a file where the folder should be")
    router = start(route_of(1, RANGE, sampling(tmp_path / "traffic")))
    answered(router, tokens(1, 5))
    (response,) = router.execute([Question(ask(tokens=tokens(1, 5)).inputs, "no JSON")])
    assert not response.has_error()
    router.finalize()
    assert server.total("enginegate_sampling_errors_total") == 2
