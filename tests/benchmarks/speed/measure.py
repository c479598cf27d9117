"""Builds and times the engines whose jobs `prepare.py` left, on this host's GPU; prints README's table of speed.

    ENGINEGATE_HOME=DIR python tests/benchmarks/speed/measure.py [MODEL]…

Results are added to DIR/speed.json, so the models can be measured one by one; the layers of each engine, with their
times, to DIR/layers. For the columns of PyTorch, torch and transformers must be here, or in ENGINEGATE_TORCH_PYTHON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from prepare import JOBS_FILE, MODELS

from flows.console import Reporter
from flows.runners.handover import take_job
from flows.session import Session
from flows.settings import read_settings
from tasks.errors import EnginegateError
from tasks.records import Cell
from tasks.specs import Precision
from tasks.stages.benchmark import LAYERS_FILE, benchmark_engine
from tasks.stages.build import build_engine
from tasks.timings import Benchmark, PytorchForm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tasks.records import EngineJob
    from tasks.timings import Timing

RESULTS_FILE = "speed.json"
MIB = 1 << 20


def measure(session: Session, job: EngineJob, layers: Path) -> dict[str, Any]:
    """Build and time one engine; return its results as JSON values."""
    context = session.stage_context()
    if job.cell.precision is not Precision.FP16:  # PyTorch is timed once a model, beside the FP16 engine
        context = replace(context, torch_python=None)
    started = time.monotonic()
    engine = build_engine(context, job).result
    build_s = time.monotonic() - started
    timed = benchmark_engine(context, job, engine).result
    if timed.layers is not None:
        with context.store.scratch() as folder:
            found = context.store.fetch(timed.layers, folder / "layers") / LAYERS_FILE
            layers.mkdir(parents=True, exist_ok=True)
            (layers / f"{job.cell.model}-{job.cell.precision.value}.json").write_bytes(found.read_bytes())
    return {"build_s": build_s, "benchmark": timed.model_dump(mode="json"), "backend": engine.backend.model_dump()}


def rows(results: Mapping[str, Any]) -> Iterable[list[str]]:
    """The table's rows: a model at a batch size, in PyTorch's forms and in every precision."""
    models = sorted({Cell.parse(engine_id).model for engine_id in results})
    for model in models:
        engines = {
            Cell.parse(engine_id).precision.value: Benchmark.model_validate(found["benchmark"])
            for engine_id, found in results.items()
            if Cell.parse(engine_id).model == model and "benchmark" in found
        }
        if not engines:
            continue
        reference = engines.get("fp16") or next(iter(engines.values()))
        for batch in sorted(latency.batch for latency in reference.engine.latencies):
            pytorch = [_shown(reference.pytorch.get(form), batch) for form in PytorchForm]
            own = [
                _shown(engines[name].engine if name in engines else None, batch) for name in ("fp32", "fp16", "int8")
            ]
            yield [model, str(batch), *pytorch, *own, _speedup(engines.get("fp16"), batch)]


def _shown(timing: Timing | None, batch: int) -> str:
    found = next((one for one in timing.latencies if one.batch == batch), None) if timing else None
    return "-" if found is None else f"{found.p50_ms:.3g} / {found.p99_ms:.3g}"


def _speedup(timed: Benchmark | None, batch: int) -> str:
    if timed is None:
        return "-"
    forms = (PytorchForm.EAGER_FP32, PytorchForm.COMPILE_FP16)
    return " / ".join(f"{timed.speedup[form][batch]:.2f}x" if form in timed.speedup else "-" for form in forms)


def sizes(results: Mapping[str, Any]) -> Iterable[list[str]]:
    """Size, device memory and build time of every engine."""
    for engine_id, found in sorted(results.items()):
        if "benchmark" in found:
            memory = found["benchmark"]["engine"]["device_memory_bytes"] / MIB
            size = found["benchmark"]["engine_size_bytes"] / 1e6
            yield [engine_id.partition("@")[0], f"{size:.0f}", f"{memory:.0f}", f"{found['build_s']:.0f}"]


def print_table(headings: list[str], lines: Iterable[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


def _measure_and_keep(session: Session, home: Path, engine_id: str, job: str) -> bool:
    """Measure one engine and add its results to the file; return whether that failed."""
    try:
        found = measure(session, take_job(session.store, engine_id, job), home / "layers")
    except EnginegateError as error:
        found = {"error": str(error)}
    print(engine_id, found.get("error") or f"built in {found['build_s']:.0f} s", flush=True)
    with FileLock(home / f"{RESULTS_FILE}.lock"):
        results = json.loads((home / RESULTS_FILE).read_text()) if (home / RESULTS_FILE).exists() else {}
        (home / RESULTS_FILE).write_text(json.dumps(results | {engine_id: found}, indent=1, sort_keys=True) + "\n")
    return "error" in found


def main() -> int:
    """Measure what the command line names; return 1 if an engine could not be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one of {', '.join(MODELS)}; all without any")
    parser.add_argument("--precision", action="append", choices=("fp32", "fp16", "int8"), help="may be repeated")
    options = parser.parse_args()
    wanted = {name.replace("_", "-") for name in options.models or MODELS}
    session = Session(read_settings(), Reporter())
    home = session.settings.home.resolve()
    jobs = json.loads((home / JOBS_FILE).read_text())
    failed = 0
    precisions = options.precision or ["fp16", "int8", "fp32"]
    for precision in precisions:
        for engine_id in sorted(jobs):
            cell = Cell.parse(engine_id)
            if cell.model in wanted and cell.precision.value == precision:
                failed += _measure_and_keep(session, home, engine_id, jobs[engine_id])
    results = json.loads((home / RESULTS_FILE).read_text())
    forms = [f"PyTorch {form.value}" for form in PytorchForm]
    engines = ["TensorRT FP32", "TensorRT FP16", "TensorRT INT8"]
    print_table(["model", "batch", *forms, *engines, "FP16 against eager FP32 / compiled FP16"], rows(results))
    print_table(["engine", "size MB", "device memory MiB", "build s"], sizes(results))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
