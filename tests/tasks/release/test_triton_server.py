"""Switches at a real Triton server."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.errors import EnginegateError, InputError
from tasks.release.triton_switch import TritonSwitch
from tasks.serving.triton_api import TritonApi
from tasks.serving.triton_repository import TritonRepository
from tasks.serving.triton_server import TritonServer, find_server
from tasks.specs import ServingSpec
from tests.tasks.serving_host import FIRST, SECOND, SQUARED, THIRD, Shop, version_served
from tests.tasks.tiny import make_features, put_shards, score

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.records import EngineManifest
    from tasks.release.pull import Pulled

GRACE_S = 0.5
FEATURES = make_features(8)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@contextmanager
def running_server(repository: Path, *models: str) -> Iterator[TritonApi]:
    """The server of `make triton` on a repository, with these models loaded from the start."""
    repository.mkdir(exist_ok=True)
    with TritonServer(find_server(), repository, models, log=repository.parent / "triton.log") as server:
        yield TritonApi(server.http)


def offer(shop: Shop, version: str, *, squared: bool = False) -> EngineManifest:
    """Publish and promote an engine that scores, or squares the scores and says so by its smoke samples."""
    patient = ServingSpec(queue_timeout_us=60_000_000)  # however busy the machine is
    if not squared:
        return shop.offer(version, plan=shop.onnx_plan(), serving=patient)
    squares = put_shards(shop.store, [{"score": score(make_features(8))[:4] ** 2}])
    inputs = put_shards(shop.store, [{"features": make_features(8)[:4]}])
    smoke = {"inputs": inputs, "reference": squares, "candidate": squares, "samples": 4}
    return shop.offer(version, plan=shop.onnx_plan(SQUARED), smoke=smoke, serving=patient)


def pull(shop: Shop, api: TritonApi | None) -> tuple[Pulled, TritonSwitch]:
    service = TritonSwitch(TritonRepository(shop.root / "repository", "tiny"), api, grace_s=GRACE_S)
    service.require_free()
    return shop.pull(folder=service.folder, service=service), service


def ask(api: TritonApi) -> np.ndarray[Any, Any]:
    return api.infer("tiny", {"features": FEATURES})["score"][:, 0]


def test_a_version_changes_under_load_without_a_failed_request_and_a_bad_one_changes_nothing(shop: Shop) -> None:
    repository = shop.root / "repository"
    offer(shop, FIRST)
    answers: list[np.ndarray[Any, Any]] = []
    failures: list[str] = []
    stopped = threading.Event()

    def work(api: TritonApi) -> None:
        while not stopped.is_set():
            try:
                answers.append(ask(api))
            except EnginegateError as error:
                failures.append(str(error))

    with running_server(repository) as api:
        pulled, service = pull(shop, api)
        assert (pulled.moved, service.switched) == (True, True)
        np.testing.assert_allclose(ask(api), score(FEATURES), rtol=1e-5)
        threads = [threading.Thread(target=work, args=(api,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            offer(shop, SECOND, squared=True)
            pull(shop, api)
            np.testing.assert_allclose(ask(api), score(FEATURES) ** 2, rtol=1e-5)
            shop.offer(THIRD, plan=b"no graph")
            with pytest.raises(EnginegateError, match=r"move 2, tiny-cpu-fp32@2{12} goes on serving"):
                pull(shop, api)
            np.testing.assert_allclose(ask(api), score(FEATURES) ** 2, rtol=1e-5)
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert len(answers) > 50
        assert version_served(service.folder.root) == SECOND
        ready = {state.name for state in api.index() if state.state == "READY"}
        assert ready == {"tiny", *TritonRepository(repository, "tiny").engines()}
        assert len(ready) == 2


@pytest.mark.hardship(only=True)
def test_an_engine_that_computes_something_else_on_the_server_is_not_switched_to(shop: Shop) -> None:
    offer(shop, FIRST)
    with running_server(shop.root / "repository") as api:
        pull(shop, api)
        shop.offer(SECOND, plan=shop.onnx_plan(SQUARED))  # with the smoke samples of the scorer
        with pytest.raises(EnginegateError, match=r"does not do on the server what it did.*move 1, .* goes on serving"):
            pull(shop, api)
        np.testing.assert_allclose(ask(api), score(FEATURES), rtol=1e-5)


@pytest.mark.hardship(only=True)
def test_what_was_laid_out_without_a_server_is_served_from_its_first_start_and_again_after_it_was_killed(
    shop: Shop,
) -> None:
    repository = shop.root / "repository"
    offer(shop, FIRST)
    _, service = pull(shop, None)
    models = ("tiny", *service.repository.engines())
    with running_server(repository, *models) as api:
        np.testing.assert_allclose(ask(api), score(FEATURES), rtol=1e-5)
        pull(shop, api)
        with pytest.raises(InputError, match="is in use: the server at"):
            pull(shop, None)
    with running_server(repository) as api:  # another port, and nothing loaded
        pull(shop, api)
        np.testing.assert_allclose(ask(api), score(FEATURES), rtol=1e-5)


def test_a_server_on_another_folder_is_told_by_what_it_does_not_see(shop: Shop) -> None:
    offer(shop, FIRST)
    with running_server(shop.root / "elsewhere") as api, pytest.raises(InputError, match="does not see tiny--1"):
        pull(shop, api)
    assert not (shop.root / "repository" / "tiny").exists()
    shutil.rmtree(shop.root / "repository")
