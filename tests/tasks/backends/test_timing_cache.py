from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.backends.timing_cache import TimingCache, timing_cache_path
from tasks.backends.trt_build import build_plans
from tasks.backends.trt_log import TrtLog
from tasks.records import BackendIdentity
from tests.tasks.backends.tensorrt_api.kinds import state_of
from tests.tasks.backends.test_trt_build import give_plan, let_build, make_job

if TYPE_CHECKING:
    from tests.tasks.backends.fake_tensorrt import FakeTensorrt

IDENTITY = BackendIdentity(
    name="tensorrt", version="11.4.0", device="NVIDIA L4", compute_capability="8.9", cuda="13.0", driver="580.65"
)


class Caches:
    """Gives a release timing caches that hold names of kernels, as JSON; what is no JSON is rejected in the log."""

    def __init__(self, fake: FakeTensorrt, log: TrtLog | None = None) -> None:
        self.fake, self.log = fake, log
        fake.on("IBuilderConfig.create_timing_cache", self._create)
        fake.on("ITimingCache.serialize", lambda cache: json.dumps(sorted(state_of(cache)["kernels"])).encode())
        fake.on("ITimingCache.combine", self._combine)

    def _create(self, _config: Any, content: bytes) -> Any:
        cache = self.fake.make("ITimingCache")
        try:
            state_of(cache)["kernels"] = set(json.loads(bytes(content) or b"[]"))
        except ValueError:
            state_of(cache)["kernels"] = set()
            self._report("Error Code 3: timing cache of another version")
        return cache

    def _combine(self, cache: Any, other: Any, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        state_of(cache)["kernels"] |= state_of(other)["kernels"]
        return True

    def _report(self, text: str) -> None:
        if self.log:
            self.log.logger.log(self.fake.module.Logger.ERROR, text)

    def build(self, cache: TimingCache, *kernels: str) -> list[str | None]:
        """One build that times these kernels; return the cache files that its configurations read."""
        read: list[str | None] = []

        def create(file: str | None) -> Any:
            read.append(file if file is None else Path(file).read_text())
            builder = self.fake.module.Builder(self.fake.module.Logger())
            config = builder.create_builder_config()
            found = config.create_timing_cache(b"" if file is None else Path(file).read_bytes())
            config.set_timing_cache(found, ignore_mismatch=False)
            return config

        config = cache.configure(create)
        state_of(config.get_timing_cache())["kernels"] |= set(kernels)
        cache.keep(config)
        return read


@pytest.fixture
def log(fake: FakeTensorrt) -> TrtLog:
    return TrtLog(fake.module)


@pytest.fixture
def caches(fake: FakeTensorrt, log: TrtLog) -> Caches:
    return Caches(fake, log)


def kept(path: Path) -> list[str]:
    found: list[str] = json.loads(path.read_bytes())
    return found


def left_over(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if file.name not in {path.name, f"{path.name}.lock"})


def test_what_one_build_has_timed_the_next_one_finds(caches: Caches, log: TrtLog, tmp_path: Path) -> None:
    path = tmp_path / "new" / "gpu.cache"
    first = TimingCache(path, log)
    assert caches.build(first, "gemm", "softmax") == [None]
    assert kept(path) == ["gemm", "softmax"]
    second = TimingCache(path, log)
    assert caches.build(second, "norm") == ['["gemm", "softmax"]']
    assert kept(path) == ["gemm", "norm", "softmax"]
    assert (first.warnings, second.warnings, left_over(path)) == ((), (), [])


def test_the_plans_of_one_build_share_what_they_time_even_if_nothing_is_kept(caches: Caches, log: TrtLog) -> None:
    cache = TimingCache(None, log)
    assert caches.build(cache, "gemm") == [None]
    assert caches.build(cache, "norm") == ['["gemm"]']
    assert caches.build(cache) == ['["gemm", "norm"]']


def test_a_cache_that_tensorrt_rejects_is_left_out_with_one_warning(
    caches: Caches, log: TrtLog, tmp_path: Path
) -> None:
    path = tmp_path / "gpu.cache"
    path.write_bytes(b"of another GPU")
    cache = TimingCache(path, log)
    assert caches.build(cache, "gemm") == ["of another GPU", None]
    assert caches.build(cache, "norm") == ['["gemm"]']
    assert cache.warnings == (
        (
            "the timing cache gpu.cache is left out, since TensorRT rejects it (Error Code 3: timing cache of another"
            " version); every kernel is timed again"
        ),
    )
    assert kept(path) == ["gemm", "norm"], "the cache that no build can use is replaced"


def test_an_error_of_before_is_not_taken_for_the_caches(caches: Caches, log: TrtLog, tmp_path: Path) -> None:
    path = tmp_path / "gpu.cache"
    path.write_text('["gemm"]')
    log.logger.log(caches.fake.module.Logger.ERROR, "something else")
    cache = TimingCache(path, log)
    assert caches.build(cache) == ['["gemm"]']
    assert cache.warnings == ()


def test_two_builds_at_once_lose_nothing_of_each_other(caches: Caches, log: TrtLog, tmp_path: Path) -> None:
    path = tmp_path / "gpu.cache"
    path.write_text('["old"]')
    one, other = TimingCache(path, log), TimingCache(path, log)
    caches.build(one, "gemm")
    caches.build(other, "norm")
    assert kept(path) == ["gemm", "norm", "old"]


def test_two_builds_that_found_the_same_damaged_cache_lose_nothing_either(
    caches: Caches, log: TrtLog, tmp_path: Path
) -> None:
    path = tmp_path / "gpu.cache"
    path.write_bytes(b"damaged")
    one, other = TimingCache(path, log), TimingCache(path, log)
    caches.build(one, "gemm")
    caches.build(other, "norm")
    assert kept(path) == ["gemm", "norm"]


@pytest.mark.parametrize("reason", ["error", "refused"])
def test_what_cannot_be_combined_is_replaced_and_no_build_fails(
    caches: Caches, log: TrtLog, tmp_path: Path, reason: str
) -> None:
    path = tmp_path / "gpu.cache"
    cache = TimingCache(path, log)
    if reason == "error":
        path.write_bytes(b"written meanwhile by a newer TensorRT")
    else:
        path.write_text('["other"]')
        caches.fake.on("ITimingCache.combine", lambda *_, **__: False)
    caches.build(cache, "gemm")
    assert kept(path) == ["gemm"]
    assert not log.has_errors


def test_a_writer_that_is_killed_leaves_the_old_cache_whole(
    caches: Caches, log: TrtLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpu.cache"
    path.write_text('["old"]')

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            caches.build(TimingCache(path, log), "gemm")
    assert (kept(path), left_over(path)) == (["old"], [])
    caches.build(TimingCache(path, log), "gemm")
    assert kept(path) == ["gemm", "old"]


def test_a_full_disk_costs_the_cache_and_not_the_build(
    caches: Caches, log: TrtLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpu.cache"
    path.write_text('["old"]')

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    cache = TimingCache(path, log)
    caches.build(cache, "gemm")
    assert caches.build(cache, "norm") == ['["gemm", "old"]']
    assert cache.warnings == (
        "the timing cache cannot be kept (no space left on device); the next build times every kernel again",
    )
    assert (kept(path), left_over(path)) == (["old"], [])


def test_a_cache_that_cannot_be_read_costs_the_cache_and_not_the_build(
    caches: Caches, log: TrtLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpu.cache"
    path.write_text('["old"]')

    def fail(_path: Path) -> bytes:
        raise PermissionError("not yours")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        cache = TimingCache(path, log)
    assert caches.build(cache, "gemm") == [None]
    assert cache.warnings == ("the timing cache cannot be read (not yours); every kernel is timed again",)
    assert kept(path) == ["gemm", "old"]


def test_without_a_cache_in_the_configuration_nothing_is_written(
    fake: FakeTensorrt, log: TrtLog, tmp_path: Path
) -> None:
    fake.on("IBuilderConfig.get_timing_cache", lambda _config: None)
    config = fake.module.Builder(fake.module.Logger()).create_builder_config()
    TimingCache(tmp_path / "gpu.cache", log).keep(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"device": "NVIDIA A10G"},
        {"compute_capability": "8.6"},
        {"version": "10.12.0"},
        {"cuda": "12.8"},
        {"mig": "1g.5gb"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_gpu_model_tensorrt_and_cuda_has_a_file_of_its_own(tmp_path: Path, change: dict[str, str]) -> None:
    other = IDENTITY.model_copy(update=change)
    assert timing_cache_path(tmp_path, IDENTITY) != timing_cache_path(tmp_path, other)


def test_another_driver_of_the_same_cuda_shares_the_file(tmp_path: Path) -> None:
    path = timing_cache_path(tmp_path, IDENTITY)
    assert path == timing_cache_path(tmp_path, IDENTITY.model_copy(update={"driver": "590.1"}))
    assert path.parent == tmp_path
    assert path.name.startswith("tensorrt-11.4.0-")


BUCKETS = {"batch": {"min": 1, "opt": 8, "max": 16, "buckets": [1, 8, 16]}}


def test_a_build_reads_and_keeps_its_cache_on_every_release(fake: FakeTensorrt, tmp_path: Path) -> None:
    let_build(fake)
    Caches(fake)
    path = tmp_path / "gpu.cache"
    path.write_text('["old"]')

    def timed(builder: Any, network: Any, config: Any) -> bytes:
        content = give_plan(builder, network, config)
        state_of(config.get_timing_cache())["kernels"].add(content.decode())
        return content

    fake.on("Builder.build_serialized_network", timed)
    job = make_job(tmp_path, dims=BUCKETS).model_copy(update={"timing_cache": path})
    assert build_plans(fake.module, job, lambda _done, _total: None) == ()
    assert kept(path) == ["old", "plan of (1, 4)", "plan of (16, 4)", "plan of (8, 4)"]
    read = [
        json.loads(found["serialized_timing_cache"]) for found in fake.arguments("IBuilderConfig.create_timing_cache")
    ]
    assert ["old"] in read
    assert ["old", "plan of (1, 4)"] in read
