from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.backends.compatibility import refuse_elsewhere
from tasks.errors import RefusedError
from tasks.records import BackendIdentity, BuiltEngine
from tasks.stages.benchmark import benchmark_engine
from tasks.stages.compare import compare_engine
from tests.tasks.tiny import job, make_outcome, put_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.process.context import StageContext
    from tasks.records import EngineJob
    from tasks.store.stage_cache import StageResult

A10G = BackendIdentity(
    name="tensorrt", version="11.4.0", device="NVIDIA A10G", compute_capability="8.6", cuda="13.0", driver="580.65"
)
SLICE = A10G.model_copy(
    update={"device": "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "compute_capability": "8.0", "mig": "1g.5gb"}
)
CPU = BackendIdentity(name="onnxruntime", version="1.22.0", device="x86_64 AMD EPYC, 8 cores")


def like(identity: BackendIdentity, **changes: Any) -> BackendIdentity:
    return identity.model_copy(update=changes)


@pytest.mark.parametrize(
    ("built", "here", "sentence"),
    [
        (
            A10G,
            like(A10G, device="NVIDIA T4", compute_capability="7.5"),
            (
                "built for NVIDIA A10G (SM 8.6) with TensorRT 11.4.0; this host has NVIDIA T4 (SM 7.5): build target t4"
                " instead"
            ),
        ),
        (
            A10G,
            like(A10G, device="NVIDIA T4", compute_capability="7.5", version="10.12.0"),
            (
                "built for NVIDIA A10G (SM 8.6) with TensorRT 11.4.0; this host has NVIDIA T4 (SM 7.5) with TensorRT"
                " 10.12.0: build target t4 instead"
            ),
        ),
        (
            A10G,
            like(A10G, version="10.12.0"),
            (
                "built for NVIDIA A10G (SM 8.6) with TensorRT 11.4.0; this host has NVIDIA A10G (SM 8.6) with TensorRT"
                " 10.12.0: install tensorrt==11.4.0 here, or convert on a runner with 10.12.0"
            ),
        ),
        (
            A10G,
            like(A10G, device="NVIDIA A10"),
            (
                "built for NVIDIA A10G (SM 8.6) with TensorRT 11.4.0; this host has NVIDIA A10 (SM 8.6): no target is"
                " made for this GPU"
            ),
        ),
        (
            SLICE,
            like(SLICE, device="NVIDIA A100-SXM4-40GB MIG 2g.10gb", mig="2g.10gb"),
            (
                "built for NVIDIA A100-SXM4-40GB MIG 1g.5gb (SM 8.0) with TensorRT 11.4.0; this host has NVIDIA"
                " A100-SXM4-40GB MIG 2g.10gb (SM 8.0): build target a100-mig-2g.10gb instead"
            ),
        ),
        (
            SLICE,
            like(SLICE, device="NVIDIA A100-SXM4-40GB", mig=None),
            (
                "built for NVIDIA A100-SXM4-40GB MIG 1g.5gb (SM 8.0) with TensorRT 11.4.0; this host has NVIDIA"
                " A100-SXM4-40GB (SM 8.0): build target a100 instead"
            ),
        ),
        (
            A10G,
            like(A10G, cuda="12.8"),
            (
                "built for NVIDIA A10G (SM 8.6) with TensorRT 11.4.0; this host has NVIDIA A10G (SM 8.6) with CUDA"
                " 12.8: install a driver for CUDA 13.0 or newer"
            ),
        ),
        (
            A10G,
            CPU,
            (
                "built for NVIDIA A10G (SM 8.6) with TensorRT 11.4.0; this host has onnxruntime 1.22.0: load it with"
                " tensorrt"
            ),
        ),
        (
            CPU,
            A10G,
            (
                "built for onnxruntime 1.22.0; this host has NVIDIA A10G (SM 8.6) with TensorRT 11.4.0: load it with"
                " onnxruntime"
            ),
        ),
    ],
)
def test_what_differs_is_said_with_the_remedy(built: BackendIdentity, here: BackendIdentity, sentence: str) -> None:
    with pytest.raises(RefusedError) as caught:
        refuse_elsewhere(built, here, {}, "cpu")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("built", "here"),
    [
        (A10G, like(A10G, cuda="13.2")),
        (A10G, like(A10G, cuda="14.0")),
        (like(A10G, cuda="13.2"), A10G),
        (A10G, like(A10G, driver="590.1")),
        (
            like(A10G, device="NVIDIA A100-SXM4-40GB", compute_capability="8.0"),
            like(A10G, device="NVIDIA A100 80GB PCIe", compute_capability="8.0"),
        ),
        (CPU, like(CPU, device="aarch64 Neoverse-V2, 2 cores")),
        (CPU, like(CPU, version="1.99.0")),
    ],
)
def test_what_does_not_matter_is_not_refused(built: BackendIdentity, here: BackendIdentity) -> None:
    assert not is_refused(built, here)


def is_refused(built: BackendIdentity, here: BackendIdentity) -> bool:
    try:
        refuse_elsewhere(built, here, {}, "cpu")
    except RefusedError:
        return True
    return False


words = st.text(max_size=12)
identities = st.builds(
    BackendIdentity,
    name=words,
    version=words,
    device=words | st.sampled_from(["NVIDIA A10G", "NVIDIA A10", "Tesla T4"]),
    compute_capability=st.none() | st.from_regex(r"[0-9]\.[0-9]", fullmatch=True),
    cuda=st.none() | st.from_regex(r"1[0-9]\.[0-9]", fullmatch=True),
    driver=st.none() | words,
    mig=st.none() | st.sampled_from(["1g.5gb", "3g.20gb"]),
)


@settings(derandomize=True, deadline=None)
@given(identities)
def test_an_engine_always_loads_where_it_was_built(identity: BackendIdentity) -> None:
    assert not is_refused(identity, identity.model_copy())


@pytest.mark.parametrize("stage", [compare_engine, benchmark_engine])
def test_an_engine_of_elsewhere_is_refused_before_a_byte_of_it_is_read(
    context: StageContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Callable[[StageContext, EngineJob, BuiltEngine], StageResult[Any]],
) -> None:
    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("it must not come to this")

    for name in (
        "tasks.stages.benchmark.Child",
        "tasks.process.context.call_in_child",
        "tasks.store.local.LocalStore.fetch",
    ):
        monkeypatch.setattr(name, forbidden)
    engine = make_outcome(context.store).engine
    assert engine
    engine_job = job(context.store, put_model(context.store, tmp_path / "onnx"))
    with pytest.raises(
        RefusedError, match=r"built for NVIDIA A10G \(SM 8.6\) with TensorRT 11.4.0; this host has onnx"
    ):
        stage(context, engine_job, engine.model_copy(update={"backend": A10G}))
