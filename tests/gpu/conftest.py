"""Tests on a real GPU. Elsewhere all of them are skipped, and say why.

The examples' engines are built from jobs that `tests/benchmarks/speed/prepare.py` left in a folder, which
ENGINEGATE_GPU_JOBS names: a store with the typed models, and jobs.json. So no torch is needed here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.runners.handover import take_job
from tasks.backends.gpu import find_gpu
from tasks.backends.trt import import_tensorrt
from tasks.errors import StageError
from tasks.process.context import StageContext
from tasks.store.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.records import EngineJob

JOBS = os.environ.get("ENGINEGATE_GPU_JOBS")  # read before the tests' own settings replace the environment


def _what_is_missing() -> str | None:
    try:
        find_gpu()
        import_tensorrt()
    except StageError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    own = [item for item in items if here in item.path.parents]
    missing = _what_is_missing() if own else None
    for item in own:
        item.add_marker(pytest.mark.gpu)
        if missing is not None:
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def target() -> str:
    """The target that this host's GPU is."""
    found = find_gpu().target
    assert found is not None
    return found


@pytest.fixture(scope="session")
def gpu_bench(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    """A workbench whose engines all tests share."""
    home = tmp_path_factory.mktemp("gpu")
    store = LocalStore(Path(JOBS) / "store" if JOBS else home / "store")
    return StageContext(store, time_limit_s=600, benchmark_s=0.5, timing_caches=home / "timing-caches")


@pytest.fixture(scope="session")
def example_job(gpu_bench: StageContext) -> Callable[[str], EngineJob]:
    """The job of an example's engine for this GPU, by `model-target-precision`."""

    def find(name: str) -> EngineJob:
        if JOBS is None:
            pytest.skip("ENGINEGATE_GPU_JOBS names no folder that tests/benchmarks/speed/prepare.py has filled")
        listing = json.loads((Path(JOBS) / "jobs.json").read_text())
        engine_id = next(engine_id for engine_id in listing if engine_id.startswith(f"{name}@"))
        return take_job(gpu_bench.store, engine_id, listing[engine_id])

    return find
