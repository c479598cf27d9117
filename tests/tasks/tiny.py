"""The smallest model that the stages can work on: a weighted sum of four features through a sigmoid."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.parser
import yaml

from tasks.backends.interface import BuildJob
from tasks.backends.profiles import PROFILE_RULE
from tasks.records import (
    BackendIdentity,
    BuiltEngine,
    Cell,
    ComparedEngine,
    DataArtifact,
    EngineJob,
    EngineManifest,
    EngineOutcome,
    EngineProfile,
    ModuleArtifact,
    ReferenceArtifact,
    SmokeArtifact,
    TypedModel,
)
from tasks.registry.evidence import artifacts_of
from tasks.samples.data_spec import slices_in
from tasks.samples.npz import save_shard
from tasks.specs import ModelSpec, Precision
from tasks.store.digests import digest_json
from tasks.timings import Benchmark, Latency, PytorchForm, Timing
from tests.sets import describe
from validation.comparison import Comparison
from validation.policy import default_policy
from validation.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tasks.artifact import Artifact
    from tasks.samples.npz import Arrays
    from tasks.store.interface import ArtifactStore
    from validation.comparison import ComparisonResult
    from validation.policy import Policy

VERSION = "0123456789ab"
WEIGHTS = np.array([0.1, -0.2, 0.3, -0.4], np.float32)
SAMPLES = 400
SMOKE = 8

SPEC: dict[str, Any] = {
    "name": "tiny",
    "source": "model.py:build",
    "inputs": {"features": {"dtype": "float32", "shape": ["batch", 4]}},
    "dims": {"batch": {"min": 1, "opt": 8, "max": 16}},
    "outputs": {"score": {"kind": "score", "range": [0, 1]}},
    "targets": ["cpu"],
    "precisions": ["fp32"],
    "validation": {"data": "validation.npz"},
}

# What a graph computes from `features`, as text that onnx.parser reads.
SCORER = "p = Mul(features, w)  t = ReduceSum<keepdims=0>(p, one)  score = Sigmoid(t)"


def changed(**changes: Any) -> dict[str, Any]:
    """The tiny scorer's model.yaml with keys replaced; None removes one."""
    return {key: value for key, value in {**SPEC, **changes}.items() if value is not None}


def tiny_spec(**changes: Any) -> ModelSpec:
    """The same, checked."""
    return ModelSpec.model_validate(changed(**changes))


def write_model_folder(folder: Path, **changes: Any) -> Path:
    """Write a model directory, with a calibration set beside it; see `changed`."""
    folder.mkdir(exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(changed(**changes), sort_keys=False))
    (folder / "model.py").write_text("def build():\n    raise NotImplementedError\n")
    if changes.get("weights") == "weights.safetensors":
        (folder / "weights.safetensors").write_bytes(b"weights")
    np.savez(folder / "validation.npz", features=make_features(SAMPLES))
    calibration = folder.parent / "calibration"
    calibration.mkdir(exist_ok=True)
    np.savez(calibration / "set.npz", features=make_features(64, seed=1))
    describe(calibration, SPEC["inputs"])
    return folder


def make_features(samples: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Samples of the tiny scorer."""
    return np.random.default_rng(seed).standard_normal((samples, 4)).astype(np.float32)


def score(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the scorer gives, by numpy."""
    return np.asarray(1 / (1 + np.exp(-(features * WEIGHTS).sum(axis=1)))).astype(np.float32)


def write_onnx(folder: Path, body: str = SCORER, outputs: str = "float[batch] score", batch: str = "batch") -> Path:
    """Write `model.onnx` that computes `body`, with `w` the weights and `one` the axis [1] at hand."""
    folder.mkdir(exist_ok=True)
    weights = ", ".join(f"{weight:.9g}" for weight in WEIGHTS.tolist())
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> tiny (float[{batch},4] features) => ({outputs})'
        f" <float[4] w = {{{weights}}}, int64[1] one = {{1}}> {{ {body} }}"
    )
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def put(store: ArtifactStore, files: Mapping[str, bytes]) -> Artifact:
    """An artifact of these files in the store."""
    with store.scratch() as folder:
        for name, content in files.items():
            (folder / "new" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "new" / name).write_bytes(content)
        return store.put(folder / "new")


def put_shards(store: ArtifactStore, shards: Sequence[Arrays]) -> Artifact:
    """An artifact of shards in the store."""
    with store.scratch() as folder:
        (folder / "shards").mkdir()
        for number, shard in enumerate(shards):
            save_shard(folder / "shards", number, shard)
        return store.put(folder / "shards")


def put_data(
    store: ArtifactStore, shards: Sequence[Arrays], annotations: Sequence[Arrays] | None = None
) -> DataArtifact:
    """Data in the store as the ingest stage leaves it."""
    return DataArtifact(
        inputs=put_shards(store, shards),
        annotations=put_shards(store, annotations or [{} for _ in shards]),
        samples=sum(len(next(iter(shard.values()))) for shard in shards),
        slices=tuple(sorted(slices_in(annotations[0]) if annotations else ())),
    )


def put_model(store: ArtifactStore, folder: Path, **graph: str) -> TypedModel:
    """A typed model in the store; see `write_onnx`."""
    return TypedModel(
        onnx=put(store, {"model.onnx": write_onnx(folder, **graph).read_bytes()}),
        precision=Precision.FP32,
        recipe={"converter": "none"},
    )


def cell(precision: str = "fp32", version: str = VERSION, target: str = "cpu") -> Cell:
    """A cell of the tiny scorer."""
    return Cell(model="tiny", target=target, precision=Precision(precision), version=version)


def job(
    store: ArtifactStore,
    typed: TypedModel,
    *,
    spec: ModelSpec | None = None,
    target: str = "cpu",
    data: DataArtifact | None = None,
    reference: ReferenceArtifact | None = None,
    module: ModuleArtifact | None = None,
    policy: Policy | None = None,
) -> EngineJob:
    """The job of making the tiny scorer's engine; data, reference and module stand in where a stage needs none."""
    spec = spec or tiny_spec()
    nothing = put(store, {"source/model.py": b""})
    return EngineJob(
        cell=cell(target=target),
        spec=spec,
        policy=policy or tiny_policy(),
        typed=typed,
        data=data or DataArtifact(inputs=nothing, annotations=nothing, samples=1, slices=()),
        reference=reference or ReferenceArtifact(outputs=nothing),
        module=module or ModuleArtifact(files=nothing, source=spec.source, weights=None),
    )


def build_job(onnx_file: Path, plan: Path) -> BuildJob:
    """What a backend is asked: the tiny scorer's engine, from a graph of it."""
    spec = tiny_spec()
    return BuildJob(
        onnx=onnx_file, plan=plan, precision=Precision.FP32, inputs=spec.inputs, dims=spec.dims, settings=spec.build
    )


@cache
def compare_scores(noise: float, samples: int = SAMPLES) -> ComparisonResult:
    """The comparison of a candidate with normal errors of this standard deviation; it takes a tenth of a second."""
    rng = np.random.default_rng(3)
    reference = rng.random(samples)
    comparison = Comparison(tiny_spec().output_specs())
    comparison.update({"score": reference}, {"score": reference + rng.normal(0, noise, samples)})
    return comparison.result()


def tiny_policy() -> Policy:
    """The default policy of the tiny scorer, with limits that 400 samples can show."""
    policy = default_policy(tiny_spec().output_specs(), "fp16")
    shown = {"bias": {"within": 0.01}, "pearson": {"min": 0.9}}
    return replace(policy, rules=tuple(replace(rule, **shown.get(rule.metric, {})) for rule in policy.rules))


def latency(batch: int, p50_ms: float) -> Latency:
    """A latency with that median."""
    return Latency(
        batch=batch,
        p50_ms=p50_ms,
        p50_interval=(0.9 * p50_ms, 1.1 * p50_ms),
        p90_ms=p50_ms,
        p99_ms=p50_ms,
        throughput_per_s=1000 * batch / p50_ms,
        calls=9,
    )


def timed_at(benchmark: Benchmark, p50_ms: float, *, off: float = 0.05) -> Benchmark:
    """The benchmark of an engine with that median at batch 8, beside a reference of 6 ms; `off` is half an interval."""
    speedup = 6.0 / p50_ms
    return benchmark.model_copy(
        update={
            "engine": Timing(latencies=(latency(1, 1.0), latency(8, p50_ms))),
            "speedup": {PytorchForm.EAGER_FP32: {1: 2.0, 8: speedup}},
            "speedup_interval": {
                PytorchForm.EAGER_FP32: {1: (1.9, 2.1), 8: ((1 - off) * speedup, (1 + off) * speedup)}
            },
        }
    )


def make_outcome(
    store: ArtifactStore,
    *,
    noise: float = 0.0001,
    plan: bytes = b"plan",
    policy: Policy | None = None,
    engine: Cell | None = None,
) -> EngineOutcome:
    """An engine with all that was measured of it, its files in the store; noise 0.3 makes it fail."""
    compared, policy, engine = compare_scores(noise), policy or tiny_policy(), engine or cell()
    verdict = decide(policy, compared, precision=engine.precision.value)
    plan_folder = put(store, {"engine.onnx": plan, "engine.onnx.data": b"data of " + plan})
    return EngineOutcome(
        cell=engine,
        outcome=verdict.outcome,
        typed=TypedModel(
            onnx=put(store, {"model.onnx": b"graph"}), precision=Precision.FP32, recipe={"converter": "none"}
        ),
        engine=BuiltEngine(
            plan=plan_folder,
            backend=BackendIdentity(name="onnxruntime", version="1", device="cpu"),
            options={"level": "extended"},
            profiles=(EngineProfile(file="engine.onnx", dims=tiny_spec().dims),),
            cache_key=digest_json("key"),
        ),
        compared=ComparedEngine(
            plan=plan_folder.digest,
            outputs=put_shards(store, [{"score": score(make_features(SMOKE))}]),
            comparison=compared,
            peak_memory_bytes=1,
        ),
        verdict=verdict,
        policy=policy,
        benchmark=Benchmark(
            engine=Timing(latencies=(latency(1, 1.0), latency(8, 4.0))),
            pytorch={PytorchForm.EAGER_FP32: Timing(latencies=(latency(1, 2.0), latency(8, 6.0)))},
            speedup={PytorchForm.EAGER_FP32: {1: 2.0, 8: 1.5}},
            speedup_interval={PytorchForm.EAGER_FP32: {1: (1.9, 2.1), 8: (1.4, 1.6)}},
            engine_size_bytes=10,
            headline_batch=8,
        ),
    )


def put_validation(store: ArtifactStore) -> DataArtifact:
    """Validation data in the store that the outputs of `make_outcome` and `put_reference` belong to."""
    return put_data(store, [{"features": make_features(SMOKE)}])


def put_reference(store: ArtifactStore) -> ReferenceArtifact:
    """A reference in the store."""
    return ReferenceArtifact(outputs=put_shards(store, [{"score": score(make_features(SMOKE))}]))


def put_smoke(store: ArtifactStore) -> SmokeArtifact:
    """What is kept of that validation data and of these outputs, all of which are alike here."""
    score_of = put_shards(store, [{"score": score(make_features(SMOKE))[:4]}])
    inputs = put_shards(store, [{"features": make_features(SMOKE)[:4]}])
    return SmokeArtifact(inputs=inputs, reference=score_of, candidate=score_of, samples=4)


def manifest_of(store: ArtifactStore, outcome: EngineOutcome, **changes: Any) -> EngineManifest:
    """The manifest of an engine, written out by hand."""
    spec = tiny_spec()
    assert outcome.policy
    assert outcome.typed
    assert outcome.engine
    assert outcome.compared
    fields: dict[str, Any] = {
        "engine_id": outcome.cell.engine_id,
        "cell": outcome.cell,
        "source_commit": "c" * 40,
        "plan": outcome.engine.plan,
        "onnx": outcome.typed.onnx,
        "reference_outputs": put_reference(store).outputs,
        "smoke": put_smoke(store),
        "recipe": outcome.typed.recipe,
        "dims": spec.dims,
        "inputs": spec.inputs,
        "outputs": spec.outputs,
        "backend": outcome.engine.backend,
        "options": outcome.engine.options,
        "profiles": outcome.engine.profiles,
        "profile_rule": PROFILE_RULE,
        "cache_key": outcome.engine.cache_key,
        "policy": outcome.policy,
        "policy_digest": digest_json(asdict(outcome.policy)),
        "policy_origin": "default",
        "verdict": outcome.verdict,
        "comparison": outcome.compared.comparison,
        "compared": outcome.compared.plan,
        "benchmark": outcome.benchmark,
        "mlflow_run": "run",
        "who": "ann",
        "created_at": "2026-11-20T12:00:00+00:00",
    }
    return EngineManifest(**(fields | changes))


def lay_out(store: ArtifactStore, manifest: EngineManifest, folder: Path) -> dict[str, Path]:
    """The folders that a registry wants to see: the files of each artifact, by its digest."""
    artifacts = {artifact.digest: artifact for artifact in artifacts_of(manifest).values()}
    return {digest: store.fetch(artifact, folder / digest[-12:]) for digest, artifact in artifacts.items()}
