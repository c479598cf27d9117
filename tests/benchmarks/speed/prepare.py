"""Fills an artifact store with everything that engines of the models beside this file are made of.

    ENGINEGATE_HOME=DIR python tests/benchmarks/speed/prepare.py [MODEL | DIRECTORY]…

It needs torch and transformers, but no GPU. The store then holds a job for each engine, and DIR/jobs.json says which:
`{engine_id: job}`, what the flow `make-engine` is called with on a GPU that shares the store, or was sent a copy. The
weights repeat one block of numbers, so such a copy compresses to a few MB (`xz`; 5 GB otherwise).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from make_data import complete
from pydantic import BaseModel

from flows.console import Reporter
from flows.conversion.checked_calibration import read_calibration
from flows.conversion.conversion_plan import plan_conversion
from flows.runners.handover import leave_job
from flows.session import Session
from flows.settings import read_settings
from tasks.model.model_directory import SPEC_FILE, read_model_directory
from tasks.records import EngineJob
from tasks.specs import Precision
from tasks.stages.convert import convert_precision
from tasks.stages.export import export_onnx
from tasks.stages.ingest import ingest
from tasks.stages.reference import run_reference
from tasks.torch_side.module_source import store_module

if TYPE_CHECKING:
    from tasks.store.stage_cache import StageResult

HERE = Path(__file__).resolve().parent
MODELS = sorted(path.parent.name for path in HERE.glob("*/model.yaml"))
JOBS_FILE = "jobs.json"

Result = TypeVar("Result", bound=BaseModel)


def prepare(session: Session, folder: Path) -> dict[str, str]:
    """Export and convert the model in `folder`; return the job of each engine by its id."""
    directory = read_model_directory(folder)
    spec, context = directory.spec, session.stage_context()
    data = _told("validation data", ingest(context, spec, directory.validation, "validation.data"))
    _, calibration = read_calibration(session, directory)
    exported = _told("export", export_onnx(context, directory, data))
    reference = _told("reference", run_reference(context, directory, data))
    module = store_module(context, directory).result
    jobs = {}
    for cell in plan_conversion(directory).cells:
        samples = calibration if cell.precision is Precision.INT8 else None
        typed = _told(
            f"convert {cell.precision.value}", convert_precision(context, exported, cell.precision, spec, samples)
        )
        print("    " + ", ".join(f"{name}: {value}" for name, value in typed.recipe.items()), flush=True)
        job = EngineJob(
            cell=cell,
            spec=spec,
            policy=directory.policy(cell.precision, data.slices),
            typed=typed,
            data=data,
            reference=reference,
            module=module,
        )
        jobs[cell.engine_id] = leave_job(session.store, job)
    return jobs


def _told(name: str, done: StageResult[Result]) -> Result:
    print(f"  {name:<17} {'found' if done.cached else f'{done.seconds:.1f} s'}", flush=True)
    return done.result


def main() -> None:
    """Prepare the models that the command line names, or all; add their jobs to those of earlier calls."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    help_text = f"one of {', '.join(MODELS)}, or a model directory like examples/essay_scorer; those four without any"
    parser.add_argument("models", nargs="*", metavar="MODEL", help=help_text)
    chosen = parser.parse_args().models or MODELS
    if unknown := [name for name in chosen if name not in MODELS and not Path(name, SPEC_FILE).is_file()]:
        parser.error(f"{', '.join(unknown)}: no model; choose from {', '.join(MODELS)}, or name a model directory")
    session = Session(read_settings(), Reporter())
    listing = session.settings.home.resolve() / JOBS_FILE
    jobs = json.loads(listing.read_text()) if listing.exists() else {}
    for model in chosen:
        print(model, flush=True)
        if model in MODELS:
            complete(HERE / model)
        made = prepare(session, HERE / model if model in MODELS else Path(model))
        names = {engine_id.partition("@")[0] for engine_id in made}
        jobs = {engine_id: job for engine_id, job in jobs.items() if engine_id.partition("@")[0] not in names} | made
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(json.dumps(jobs, indent=1, sort_keys=True) + "\n")
    print(f"{len(jobs)} jobs in {listing}")


if __name__ == "__main__":
    main()
