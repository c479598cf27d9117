"""config.pbtxt, read as Triton reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tasks.declared import Dim, InputSpec
from tasks.errors import RefusedError
from tasks.serving.batching import best_batch, choose_batching
from tasks.serving.engine_io import OutputTensor, describe_outputs
from tasks.serving.engine_layout import why_not_tensorrt
from tasks.serving.triton_config import WarmUp, engine_config, router_config
from tasks.specs import ServingSpec
from tasks.timings import Timing
from tests.tasks.tiny import latency, make_features, make_outcome, manifest_of, score

if TYPE_CHECKING:
    from tasks.records import EngineManifest
    from tasks.store.local import LocalStore

SCORE = {"score": OutputTensor("float32", ("batch",))}


@pytest.fixture
def manifest(store: LocalStore) -> EngineManifest:
    """That of the tiny scorer: batches to 16, timed at 1 (1 ms) and 8 (4 ms)."""
    return manifest_of(store, make_outcome(store))


def changed(manifest: EngineManifest, **changes: Any) -> EngineManifest:
    return manifest.model_copy(update=changes)


def parsed(text: str) -> Any:
    """The configuration as a message of Triton's own protocol buffer."""
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format  # noqa: PLC0415 - beside it

    return text_format.Parse(text, model_config.ModelConfig())


def test_the_router_takes_the_models_inputs_without_the_batch_axis_and_batches_as_was_measured(
    manifest: EngineManifest,
) -> None:
    config = parsed(router_config(manifest, SCORE))
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "python", 16)
    assert [(each.name, list(each.dims)) for each in config.input] == [("features", [4])]
    assert list(config.output[0].dims) == [1]
    assert config.output[0].HasField("reshape")
    assert list(config.output[0].reshape.shape) == []
    batching = config.dynamic_batching
    assert list(batching.preferred_batch_size) == [8]
    assert batching.max_queue_delay_microseconds == 400
    assert batching.default_queue_policy.max_queue_size == 2000  # 2,000 samples a second, for 1 s
    assert batching.default_queue_policy.default_timeout_microseconds == 1_000_000
    assert (config.instance_group[0].count, config.version_policy.latest.num_versions) == (2, 1)
    assert not config.model_warmup


def test_what_model_yaml_says_of_serving_replaces_what_was_measured(manifest: EngineManifest) -> None:
    serving = ServingSpec(
        preferred_batch_sizes=(4, 2), max_queue_delay_us=0, max_queue_size=9, queue_timeout_us=77, instances=3
    )
    config = parsed(router_config(changed(manifest, serving=serving), SCORE))
    policy = config.dynamic_batching.default_queue_policy
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert (policy.max_queue_size, policy.default_timeout_microseconds, config.instance_group[0].count) == (9, 77, 3)


def test_inputs_whose_other_axis_has_buckets_may_come_ragged(manifest: EngineManifest) -> None:
    dims = {
        "batch": Dim(min=1, opt=4, max=8, buckets=(1, 4, 8)),
        "sequence": Dim(min=1, opt=64, max=128, buckets=(64, 128)),
    }
    inputs = {"ids": InputSpec(dtype="int64", shape=("batch", "sequence"))}
    config = parsed(router_config(changed(manifest, dims=dims, inputs=inputs), SCORE))
    assert config.input[0].allow_ragged_batch
    assert list(config.input[0].dims) == [-1]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]


def test_an_engines_model_takes_whole_batches_with_its_own_shapes_and_is_warmed_up(manifest: EngineManifest) -> None:
    warm_up = WarmUp("batch8", {"features": ((8, 4), "float32", "batch8-features")})
    text = engine_config(
        "tiny--1-01234567--engine-batch8",
        manifest,
        SCORE,
        dims={"batch": Dim(min=8, opt=8, max=8)},
        backend="tensorrt",
        parameters={"plan": 'a "quoted"\\path é'},
        warm_ups=[warm_up],
    )
    config = parsed(text)
    assert (config.max_batch_size, config.backend) == (0, "tensorrt")
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([8, 4], [8])
    assert config.parameters["plan"].string_value == 'a "quoted"\\path é'
    (warmed,) = config.model_warmup
    assert (warmed.batch_size, list(warmed.inputs["features"].dims)) == (1, [8, 4])
    assert warmed.inputs["features"].input_data_file == "batch8-features"


def test_the_best_batch_is_where_throughput_stops_to_grow(manifest: EngineManifest) -> None:
    timed = Timing(latencies=(latency(1, 1.0), latency(8, 4.0), latency(16, 7.9), latency(4, 2.5)))
    assert best_batch(manifest.benchmark.model_copy(update={"engine": timed})).batch == 8


@pytest.mark.parametrize("reason", ["one sample", "shared input"])
def test_requests_share_no_batch_where_a_batch_is_one_sample_or_samples_share_an_input(
    manifest: EngineManifest, reason: str
) -> None:
    changes: dict[str, Any] = {"dims": {"batch": Dim(min=1, opt=1, max=1)}}
    if reason == "shared input":
        changes = {
            "inputs": {**manifest.inputs, "scale": InputSpec(dtype="float32", shape=("batch",), batch_axis=None)}
        }
    alone = changed(manifest, **changes)
    assert choose_batching(alone) is None
    assert not parsed(router_config(alone, SCORE)).HasField("dynamic_batching")


def test_outputs_have_the_dtypes_of_the_smoke_samples_and_the_axes_that_the_engine_names(
    manifest: EngineManifest,
) -> None:
    features = make_features(4)
    found = describe_outputs(manifest, {"score": ("N",)}, [{"features": features}], [{"score": score(features)}])
    assert found == SCORE


@pytest.mark.parametrize(
    ("axes", "output", "message"),
    [
        (("sequence", "batch"), np.zeros((4, 4), np.float32), "Triton batches along the first"),
        ((3, "batch"), np.zeros((3, 4), np.float32), "Triton batches along the first"),
        (("batch",), np.zeros(4, np.complex64), "complex64, which Triton lacks"),
    ],
)
def test_an_output_that_triton_cannot_give_is_refused_in_words(
    manifest: EngineManifest, axes: tuple[str | int, ...], output: np.ndarray[Any, Any], message: str
) -> None:
    dims = {**manifest.dims, "sequence": Dim(min=1, opt=4, max=4)}
    with pytest.raises(RefusedError, match=message):
        describe_outputs(
            changed(manifest, dims=dims), {"score": axes}, [{"features": make_features(4)}], [{"score": output}]
        )


def test_an_engine_without_smoke_samples_is_refused_in_words(manifest: EngineManifest) -> None:
    with pytest.raises(RefusedError, match="has no smoke samples"):
        describe_outputs(manifest, {"score": ("batch",)}, [], [])


@pytest.mark.parametrize(("version", "refused"), [("8.6.0", True), ("10.13.2", False)])
def test_plans_of_old_tensorrt_with_int64_are_left_to_their_own_runner(
    manifest: EngineManifest, version: str, refused: bool
) -> None:
    backend = manifest.backend.model_copy(update={"name": "tensorrt", "version": version})
    inputs = {"ids": InputSpec(dtype="int64", shape=("batch", 4))}
    assert (why_not_tensorrt(changed(manifest, backend=backend, inputs=inputs)) is not None) is refused


def test_serving_is_written_only_where_it_is_set(manifest: EngineManifest) -> None:
    assert "serving" not in manifest.model_dump(mode="json")
    set_by_hand = changed(manifest, serving=ServingSpec(instances=4))
    assert type(manifest).model_validate(set_by_hand.model_dump(mode="json")).serving.instances == 4
