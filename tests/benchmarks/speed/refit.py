"""Times a refit beside a build of the same weights, on this host's GPU, from the jobs that `prepare.py` left.

    ENGINEGATE_HOME=DIR python tests/benchmarks/speed/refit.py [MODEL]…

For each model's FP16 engine: an engine that can be refitted is built from its weights; then one is made from other
weights (the same numbers, each tensor rolled by one) by a build and by a refit, and the outputs of both are compared.
Every time is that of the stage, with its child process. No torch is needed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper
from prepare import JOBS_FILE, MODELS

from flows.console import Reporter
from flows.runners.handover import take_job
from flows.session import Session
from flows.settings import read_settings
from tasks.backends import backend_of
from tasks.graphs.onnx_files import fetched_model, write_model
from tasks.graphs.structure import weight_names
from tasks.records import Cell
from tasks.samples.shapes import seeded_feeds
from tasks.specs import Precision
from tasks.stages.benchmark import benchmark_engine
from tasks.stages.build import build_engine
from tasks.stages.refit import PassedBuild, keep_passed

if TYPE_CHECKING:
    from tasks.process.context import StageContext
    from tasks.records import BuiltEngine, EngineJob

RESULTS_FILE = "refit.json"


def with_refit(job: EngineJob, *, refit: bool) -> EngineJob:
    """The job with that setting."""
    build = job.spec.build.model_copy(update={"refit": refit})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"build": build})})


def with_other_weights(context: StageContext, job: EngineJob) -> EngineJob:
    """The job of a version whose weights are rolled by one."""
    typed = job.typed.half if job.typed.half is not None and backend_of(job.cell.runtime).takes_types() else job.typed
    with context.store.scratch() as folder:
        model = onnx.load(str(fetched_model(context.store.fetch(typed.onnx, folder / "onnx"))))
        rolled = weight_names(model)
        for tensor in model.graph.initializer:
            if tensor.name in rolled:
                values = np.roll(numpy_helper.to_array(tensor), 1)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        (folder / "new").mkdir()
        write_model(model, folder / "new")
        other = typed.model_copy(update={"onnx": context.store.put(folder / "new"), "half": None})
    return job.model_copy(update={"typed": other})


def made(context: StageContext, job: EngineJob) -> tuple[BuiltEngine, dict[str, Any]]:
    """The engine of a job, with its seconds, its size in bytes and its median times in ms by batch size."""
    started = time.monotonic()
    engine = build_engine(context, job).result
    seconds = time.monotonic() - started
    timed = benchmark_engine(context, job, engine).result
    p50 = {one.batch: one.p50_ms for one in timed.engine.latencies}
    return engine, {"seconds": seconds, "size_bytes": engine.plan.size_bytes, "p50_ms": p50}


def furthest(context: StageContext, job: EngineJob, one: BuiltEngine, other: BuiltEngine) -> dict[str, float]:
    """The largest difference of two engines' outputs at the usual extents, as a share of the largest value."""
    feeds = seeded_feeds(job.spec.inputs, {name: dim.opt for name, dim in job.spec.dims.items()})
    backend, outputs = backend_of(job.cell.runtime), []
    with context.store.scratch() as folder:
        for number, engine in enumerate((one, other)):
            outputs.append(backend.load(context.store.fetch(engine.plan, folder / str(number))).run(feeds))
    first, second = outputs
    return {
        name: float(np.max(np.abs(first[name] - second[name])) / max(np.max(np.abs(first[name])), 1e-9))
        for name in first
    }


def measure(context: StageContext, job: EngineJob) -> dict[str, Any]:
    """Build, and refit; return what was measured as JSON values."""
    base, before = made(context, with_refit(job, refit=True))
    assert base.structure
    typed = job.typed.half if job.typed.half is not None and base.onnx != job.typed.onnx.digest else job.typed
    keep_passed(context.store, base.structure, PassedBuild(plan=base.plan, onnx=typed.onnx))
    new = with_other_weights(context, job)
    built, by_build = made(context, with_refit(new, refit=False))
    refitted, by_refit = made(context, with_refit(new, refit=True))
    assert refitted.refitted_from == base.plan.digest, refitted.warnings
    return {
        "built to be refitted": before,
        "built": by_build,
        "refitted": by_refit,
        "difference": furthest(context, new, built, refitted),
        "from the old weights": furthest(context, new, base, refitted),
    }


def main() -> None:
    """Measure the models that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    session = Session(read_settings(), Reporter())
    context = replace(session.stage_context(), torch_python=None, timing_caches=None)
    home = session.settings.home.resolve()
    jobs = json.loads((home / JOBS_FILE).read_text())
    file = home / RESULTS_FILE
    for model in parser.parse_args().models:
        for engine_id, digest in jobs.items():
            cell = Cell.parse(engine_id)
            if (cell.model, cell.precision) == (model.replace("_", "-"), Precision.FP16) and cell.target != "cpu":
                results = json.loads(file.read_text()) if file.exists() else {}
                results[engine_id] = measure(context, take_job(session.store, engine_id, digest))
                file.write_text(json.dumps(results, indent=1) + "\n")
                print(engine_id, json.dumps(results[engine_id], indent=1), flush=True)


if __name__ == "__main__":
    main()
