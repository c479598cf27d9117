"""What a run says of a conversion or an engine: metrics, parameters and tags by name, the same names for every engine.

Names differ by model only where outputs and slices do, so that MLflow's compare view puts engines side by side.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.rule_view import judged_rules, worst_first
from tasks.store.digests import digest_json
from tasks.timings import Benchmark, Latency, PytorchForm, Timing
from validation.metrics import METRICS
from validation.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tasks.declared import Dim
    from tasks.rebuild_records import Discard
    from tasks.records import CalibrationRecord, EngineOutcome
    from tasks.tracking.interface import ConversionRecord
    from validation.breakdowns import SliceError
    from validation.comparison import ComparisonResult
    from validation.rules import Policy

WORST_SAMPLES = "worst_samples.json"
"""Name of the table of worst samples."""
RULES = "rules.json"
"""Name of the table of rules."""
LAYERS = "layers.json"
"""Name of the table of an engine's layers."""
MOST_SLICE_VALUES = 50
"""A slice with more distinct values is left out of the metrics (it is in `outcome.json`): nobody compares so many."""
_LONGEST_NAME = 250
_LONGEST_PARAM = 6000
_LONGEST_TAG = 8000
_SIDES = {form: "reference" if form is PytorchForm.EAGER_FP32 else form.value for form in PytorchForm}
_UNNAMEABLE = re.compile(r"[^\w.\- ]")
_PATH = re.compile(r"""(?:file://|(?<![\w./]))/([^\s/'":,;()]+)/(?:[^\s/'":,;()]+/)*([^\s/'":,;()]*)""")
_USUAL_ROOTS = {"Users", "Volumes", "data", "home", "media", "mnt", "opt", "private", "root", "scratch", "srv"}
_USUAL_ROOTS |= {"tmp", "usr", "var"}


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """A run's name, tags, parameters and metrics."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    values: Mapping[str, float] = field(default_factory=dict)


def outcome_document(outcome: EngineOutcome) -> dict[str, Any]:
    """The outcome as JSON values; a number that is not finite is null."""
    document: dict[str, Any] = json.loads(outcome.model_dump_json())
    return document


def engine_evidence(outcome: EngineOutcome) -> str:
    """`sha256:…` of the outcome: two runs with the same evidence say the same."""
    return digest_json(scrub(outcome_document(outcome)))  # a reason may quote a path of this very run


def conversion_evidence(conversion: ConversionRecord, outcomes: Iterable[EngineOutcome]) -> str:
    """`sha256:…` of the conversion and all its outcomes, in whatever order they come."""
    return digest_json(
        {
            "model": conversion.model,
            "version": conversion.version,
            "commit": conversion.source_commit,
            "parameters": dict(conversion.parameters),
            "validation": [conversion.validation_digest, conversion.validation_samples],
            "engines": {outcome.cell.engine_id: engine_evidence(outcome) for outcome in outcomes},
        }
    )


def metrics(outcome: EngineOutcome) -> tuple[dict[str, float], int]:
    """Metrics by name, and how many had no finite value and are left out."""
    found: dict[str, float | None] = {}
    if outcome.compared is not None:
        found |= _measured(outcome.compared.comparison, outcome.policy)
        found["peak_memory_bytes"] = outcome.compared.peak_memory_bytes
    if outcome.benchmark is not None:
        found |= _benchmark_metrics(outcome.benchmark)
    if outcome.verdict is not None and outcome.verdict.rules:
        found["worst_margin"] = outcome.verdict.worst_rule.margin
        found |= _judged(outcome.verdict)
    defined = {safe_name(name): float(v) for name, v in found.items() if v is not None and isfinite(v)}
    return defined, len(found) - len(defined)


def conversion_metrics(outcomes: Iterable[EngineOutcome]) -> dict[str, float]:
    """How many engines ended with each verdict: what the page's list of conversions can show and sort by."""
    counts = Counter(outcome.outcome for outcome in outcomes)
    return {f"engines.{verdict.value}": float(counts[verdict]) for verdict in Outcome}


def _measured(comparison: ComparisonResult, policy: Policy | None) -> dict[str, float | None]:
    """What was measured, by name; by slice what a rule is about, and not what needs labels, where there are none."""
    rules = () if policy is None else policy.rules
    about = {(rule.output, rule.metric, rule.by) for rule in rules if rule.by is not None}
    by_slice = _few_valued({(m.output, m.slice, m.group) for m in comparison.measurements})
    return _slice_metrics(comparison.slices) | {
        f"{_place(m.slice, m.group)}{m.output}{'' if m.column is None else f'.{m.column}'}.{m.metric}": m.value
        for m in comparison.measurements
        if (m.output, m.slice) in by_slice
        and (m.slice is None or (m.output, m.metric, m.slice) in about)
        and not (m.value is None and METRICS[m.metric].needs_label)
    }


def _slice_metrics(slices: Sequence[SliceError]) -> dict[str, float | None]:
    by_slice = _few_valued({(error.output, error.slice, error.value) for error in slices})
    return {
        f"{_place(error.slice, error.value)}{error.output}.mae": error.mae
        for error in slices
        if (error.output, error.slice) in by_slice
    }


def _judged(verdict: Verdict) -> dict[str, float | None]:
    """Bounds and margin of every judged rule, and the speed-ups that were judged; only what has a value."""
    rules = judged_rules(verdict)
    by_slice = _few_valued({(rule.output, rule.slice, rule.group) for rule in rules})
    found: dict[str, float | None] = {}
    for rule in rules:
        if (rule.output, rule.slice) not in by_slice:
            continue
        output = "" if rule.output is None else f"{rule.output}{'' if rule.column is None else f'.{rule.column}'}."
        name = f"{_place(rule.slice, rule.group)}{output}{rule.metric}"
        numbers = {"low": rule.low, "high": rule.high, "adjusted": rule.adjusted, "margin": rule.margin}
        found |= {f"{name}.{part}": number for part, number in numbers.items() if number is not None}
        if rule.output is None and rule.value is not None:
            found[name] = rule.value
    return found


def _place(name: str | None, group: str | None) -> str:
    return "" if name is None else f"slice.{name}.{group}."


_Place = tuple[str | None, str | None]
"""An output and a slice."""


def _few_valued(values: Iterable[tuple[str | None, str | None, str | None]]) -> set[_Place]:
    """Outputs and slices, of distinct outputs, slices and values, without slices of too many values."""
    counts = Counter((output, name) for output, name, _ in values)
    return {place for place, count in counts.items() if count <= MOST_SLICE_VALUES}


def _benchmark_metrics(benchmark: Benchmark) -> dict[str, float | None]:
    found: dict[str, float | None] = {"engine_size_bytes": float(benchmark.engine_size_bytes)}
    sides = {"": benchmark.engine} | {f"{_SIDES[form]}.": timing for form, timing in benchmark.pytorch.items()}
    for prefix, timing in sides.items():
        found |= _timing_metrics(prefix, timing, benchmark.headline_batch)
    for form, speedup in benchmark.speedup.items():
        suffix = "" if form is PytorchForm.EAGER_FP32 else f".vs_{form.value}"
        found |= {f"speedup{suffix}.batch_{batch}": ratio for batch, ratio in speedup.items()}
        found[f"speedup{suffix}"] = speedup.get(benchmark.headline_batch)
    return found


def _timing_metrics(prefix: str, timing: Timing, headline_batch: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    if timing.device_memory_bytes is not None:
        found[f"{prefix}device_memory_bytes"] = float(timing.device_memory_bytes)
    for latency in timing.latencies:
        found |= _latency_metrics(f"{prefix}latency.batch_{latency.batch}.", latency)
        found[f"{prefix}latency.batch_{latency.batch}.throughput_per_s"] = latency.throughput_per_s
        if latency.batch == headline_batch:
            found |= _latency_metrics(f"{prefix}latency.", latency)
            found[f"{prefix}throughput_per_s"] = latency.throughput_per_s
    return found


def _latency_metrics(prefix: str, latency: Latency) -> dict[str, float | None]:
    return {f"{prefix}{name}": getattr(latency, name) for name in ("p50_ms", "p90_ms", "p99_ms")}


def engine_params(conversion: ConversionRecord, outcome: EngineOutcome) -> dict[str, str]:
    """Parameters of an engine's run: what was asked for, and what built it."""
    params = {"target": outcome.cell.target, "precision": outcome.cell.precision.value, **_dims(conversion.dims)}
    if outcome.typed is not None:
        params |= {f"recipe.{key}": value for key, value in outcome.typed.recipe.items()}
    if outcome.engine is not None:
        backend = outcome.engine.backend.model_dump(exclude_none=True)
        params |= {f"backend.{key}": str(value) for key, value in backend.items()}
        params |= {f"option.{key}": value for key, value in outcome.engine.options.items()}
        if outcome.engine.refitted_from is not None:
            params["refitted_from"] = outcome.engine.refitted_from
        if len(outcome.engine.profiles) > 1:
            params["profiles"] = ", ".join(profile.file for profile in outcome.engine.profiles)
    if outcome.policy is not None:
        asked = ("confidence", "min_samples", "resamples")
        params |= {f"policy.{name}": f"{getattr(outcome.policy, name):g}" for name in asked}
    if outcome.calibration is not None:
        params |= calibration_params(outcome.calibration)
    if outcome.benchmark is not None:
        params |= {f"not_timed.{form.value}": reason for form, reason in outcome.benchmark.missing.items()}
    return fit_params(params)


def calibration_params(calibration: CalibrationRecord) -> dict[str, str]:
    """What INT8 was quantized with, and why that was accepted, if something was found."""
    params = {"calibration.set": calibration.name, "calibration.digest": calibration.digest}
    if calibration.findings:
        params["calibration.findings"] = "\n".join(calibration.findings)
    if calibration.accepted is not None:
        params["calibration.accepted"] = calibration.accepted
    return params


def conversion_params(conversion: ConversionRecord) -> dict[str, str]:
    """Parameters of the parent run."""
    return fit_params({**conversion.parameters, **_dims(conversion.dims)})


def fit_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow takes them, as `fit_params`."""
    return _fit(tags, _LONGEST_TAG)


def fit_params(params: Mapping[str, str]) -> dict[str, str]:
    """Parameters as MLflow takes them: safe names, no paths of this host, none too long."""
    return _fit(params, _LONGEST_PARAM)


def _dims(dims: Mapping[str, Dim]) -> dict[str, str]:
    return {f"dims.{name}": _range(dim) for name, dim in dims.items()}


def _range(dim: Dim) -> str:
    buckets = "" if dim.buckets is None else f"; buckets {', '.join(map(str, dim.buckets))}"
    return f"min {dim.min}, opt {dim.opt}, max {dim.max}{buckets}"


def conversion_tags(conversion: ConversionRecord, evidence: str, note: str) -> dict[str, str]:
    """Tags of the parent run; `note` is Markdown that MLflow's page shows as the run's description."""
    own = {"enginegate.kind": "conversion", "enginegate.evidence": evidence, "mlflow.note.content": note}
    return _fit({**_shared_tags(conversion), **own}, _LONGEST_TAG)


def engine_tags(conversion: ConversionRecord, outcome: EngineOutcome, undefined: int, parent: str) -> dict[str, str]:
    """Tags of an engine's run; `undefined` counts the metrics without a value, `parent` is the parent's run id."""
    own = {
        "enginegate.kind": "engine",
        "enginegate.engine_id": outcome.cell.engine_id,
        "enginegate.target": outcome.cell.target,
        "enginegate.precision": outcome.cell.precision.value,
        "enginegate.verdict": outcome.outcome.value,
        "enginegate.undefined_metrics": str(undefined),
        "enginegate.evidence": engine_evidence(outcome),
        "mlflow.parentRunId": parent,
        "mlflow.note.content": _engine_note(outcome),
    }
    if outcome.engine is not None:
        own |= {"enginegate.plan_digest": outcome.engine.plan.digest, **_again_tags(outcome.engine.again)}
    if outcome.miscompiled:
        own["enginegate.miscompiled_builds"] = str(len(outcome.miscompiled))
    if tables := _tables(outcome):
        # By this tag MLflow's page knows that a JSON file is a table.
        own["mlflow.loggedArtifacts"] = json.dumps([{"path": path, "type": "table"} for path in tables])
    return _fit({**_shared_tags(conversion), **own}, _LONGEST_TAG)


def _again_tags(again: Discard | None) -> dict[str, str]:
    """Why the engine before this one was thrown away."""
    if again is None:
        return {}
    return {"enginegate.again": again.reason, "enginegate.again_by": again.who or "", "enginegate.again_at": again.when}


def _tables(outcome: EngineOutcome) -> list[str]:
    worst = outcome.compared is not None and bool(outcome.compared.comparison.worst)
    layers = outcome.benchmark is not None and outcome.benchmark.layers is not None
    tables = ((RULES, outcome.verdict is not None), (WORST_SAMPLES, worst), (LAYERS, layers))
    return [path for path, is_there in tables if is_there]


def _shared_tags(conversion: ConversionRecord) -> dict[str, str]:
    # MLflow's fluent API would fill these with the login name and the script's path.
    tags = {"mlflow.source.name": "enginegate convert", "mlflow.source.type": "LOCAL", "mlflow.user": "enginegate"}
    if conversion.source_commit is not None:
        tags |= {"mlflow.source.git.commit": conversion.source_commit, "enginegate.commit": conversion.source_commit}
    return {**tags, "enginegate.model": conversion.model, "enginegate.version": conversion.version}


def _engine_note(outcome: EngineOutcome) -> str:
    lines = [f"**{outcome.outcome.value}**"]
    if outcome.reason:
        lines.append(outcome.reason)
    if outcome.engine is not None and outcome.engine.again is not None:
        lines.append(f"- made again: {outcome.engine.again.reason}")
    lines += [f"- miscompiled: {build.plan}: {build.sentence}" for build in outcome.miscompiled]
    if outcome.calibration is not None and outcome.calibration.accepted is not None:
        lines += [f"- calibration accepted: {outcome.calibration.accepted}", *outcome.calibration.findings]
    if outcome.verdict is not None:
        lines += [f"- defect: {defect}" for defect in outcome.verdict.defects]
        lines += [f"- {judged.value}: {sentence}" for judged, sentence in worst_first(outcome.verdict.sentences)]
        lines += [f"- {outcome.scope}"] if outcome.scope else []
    return "\n".join(lines)


def safe_name(name: str) -> str:
    """A name that MLflow takes for a metric, a parameter or a file; one that had to be changed keeps its own digest.

    >>> safe_name("slice.level.4.score.mae")
    'slice.level.4.score.mae'
    >>> safe_name("slice.level.A/B.score.mae")
    'slice.level.A_B.score.mae-c80f61'
    """
    safe = _UNNAMEABLE.sub("_", name)
    if safe == name and len(name) <= _LONGEST_NAME:
        return name
    digest = digest_json(name).removeprefix("sha256:")[:6]
    return f"{safe[: _LONGEST_NAME - 7]}-{digest}"


@cache
def _roots() -> set[str]:
    return _USUAL_ROOTS | {path.name for path in Path("/").iterdir()}


def without_host_paths(text: str) -> str:
    """Cut absolute paths down to `…/` and their last part. `/encoder/MatMul`, a node of a graph, stays as it is.

    >>> without_host_paths("could not load '/home/ann/tmp1/model.onnx' (node /encoder/MatMul)")
    "could not load '…/model.onnx' (node /encoder/MatMul)"
    """
    return _PATH.sub(lambda found: f"…/{found[2]}" if found[1] in _roots() else found[0], text)


def scrub(value: Any) -> Any:
    """JSON values with every text freed of host paths."""
    if isinstance(value, str):
        return without_host_paths(value)
    if isinstance(value, dict):
        return {key: scrub(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub(item) for item in value]
    return value


def _fit(values: Mapping[str, str], longest: int) -> dict[str, str]:
    fitted = {}
    for name, value in values.items():
        text = without_host_paths(value)
        fitted[safe_name(name)] = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return fitted
