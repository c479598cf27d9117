"""Makes engines of the jobs that `speed/prepare.py` left, on this host, and registers them for `enginegate serve`.

    ENGINEGATE_HOME=DIR python tests/benchmarks/serving/register.py ENGINE…

ENGINE is as `essay-scorer-h200-fp16`. Production points at it after, and its requests lie in DIR/serving/ENGINE.npz.
Neither Prefect nor MLflow is needed.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.console import Reporter
from flows.conversion.engine_making import make_here
from flows.conversion.verdicts import judge_together
from flows.runners.handover import take_job
from flows.session import Session
from flows.settings import read_settings
from tasks.records import Cell
from tasks.registry.channels import next_move
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.release.publish import describe_engine, publish_engine
from tasks.samples.npz import load_arrays, shard_paths

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineJob
    from tasks.registry.channels import Channel

SAMPLES = 64


def register(session: Session, job: EngineJob) -> str:
    """Make it as a conversion does, register it, and point production at it; return what the gate said."""
    (outcome,) = judge_together([make_here(session, job)])
    context, cell = session.stage_context(), job.cell
    manifest = describe_engine(
        context, job.spec, outcome, job.data, job.reference, source_commit=None, mlflow_run="none", who="benchmark"
    )
    publish_engine(context, session.registry, manifest)
    digest = session.registry.engines.read_signed(cell).digest

    def decide(channel: Channel) -> Any:
        named = {"engine_id": cell.engine_id, "manifest": digest}
        return next_move(channel, kind="promote", reason="benchmark", override=None, who="benchmark", **named)

    session.registry.channels.move(ChannelAddress(cell.model, cell.target, ChannelName.PRODUCTION), decide)
    return outcome.outcome.value


def write_requests(session: Session, job: EngineJob, file: Path) -> None:
    """Keep some validation samples, one a request: of those of one shape, the largest."""
    with session.store.scratch() as folder:
        shards = map(load_arrays, shard_paths(session.store.fetch(job.data.inputs, folder / "inputs")))
        arrays = max(shards, key=lambda one: one[next(iter(job.spec.inputs))][0].size)
        file.parent.mkdir(parents=True, exist_ok=True)
        named: dict[str, Any] = {name: arrays[name][:SAMPLES] for name in job.spec.inputs}
        np.savez(file, **named)


def main() -> None:
    """Register what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engines", nargs="+", metavar="ENGINE")
    session = Session(read_settings(), Reporter())
    home = session.settings.home.resolve()
    jobs = json.loads((home / "jobs.json").read_text())
    for name in parser.parse_args().engines:
        engine_id = next(one for one in jobs if one.startswith(f"{name}@"))
        job = take_job(session.store, engine_id, jobs[engine_id])
        write_requests(session, job, home / "serving" / f"{name}.npz")
        print(Cell.parse(engine_id).engine_id, register(session, job), flush=True)


if __name__ == "__main__":
    main()
