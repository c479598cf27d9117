"""What a run says of one try of a precision search."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING

from tasks.tracking.run_content import RunContent, fit_params, safe_name, without_host_paths

if TYPE_CHECKING:
    from tasks.records import EngineOutcome, EngineTry


def try_content(outcome: EngineOutcome, attempt: EngineTry, parent: str) -> RunContent:
    """The run of a try, below that of its engine, whose id is `parent`."""
    quantized = attempt.layers - len(attempt.excluded)
    tags = {
        "enginegate.kind": "try",
        "enginegate.engine_id": outcome.cell.engine_id,
        "enginegate.verdict": attempt.outcome.value,
        "mlflow.parentRunId": parent,
        "mlflow.user": "enginegate",
        "mlflow.note.content": without_host_paths(f"**{attempt.outcome.value}**\n{attempt.sentence}"),
    }
    params = {"excluded": json.dumps(list(attempt.excluded)), "onnx": attempt.onnx or ""}
    values = {safe_name(name): value for name, value in attempt.metrics.items() if isfinite(value)}
    values |= {"layers.int8": float(quantized), "layers.fp16": float(len(attempt.excluded))}
    for name, value in (("p50_ms", attempt.p50_ms), ("speedup_vs_fp16", attempt.speedup_vs_fp16)):
        if value is not None and isfinite(value):
            values[name] = value
    return RunContent(
        name=f"{outcome.cell.engine_id}, {quantized} of {attempt.layers} layers in INT8",
        tags=tags,
        params=fit_params(params),
        values=values,
    )
