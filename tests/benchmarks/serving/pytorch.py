"""Serves the module of a model by Triton as PyTorch runs it, to hold a served engine against.

    python tests/benchmarks/serving/pytorch.py ENGINE FORM --home DIR --triton SERVER [--batched]

ENGINE is as `essay-scorer-h200-fp16`, whose requests `register.py` left; FORM is one of `tasks.timings.PytorchForm`.
Prints the server's URL when it is ready, and ends with its standard input.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.runners.handover import take_job
from tasks.serving.triton_server import TritonServer, find_server
from tasks.serving.triton_types import datatype_of
from tasks.store.local import LocalStore
from tasks.timings import PytorchForm
from tasks.torch_side.module_source import fetch_module

if TYPE_CHECKING:
    from tasks.specs import ModelSpec

MODEL = "pytorch"
MOST = 32
DELAY_US = 1000
START_S = 400.0


def config(spec: ModelSpec, form: PytorchForm, feeds: Path, *, batched: bool) -> str:
    """The model's `config.pbtxt`; outputs are declared as what is left after the samples' axis."""
    with np.load(feeds) as file:
        inputs = [
            f'input [ {{ name: "{name}" data_type: TYPE_{datatype_of(file[name].dtype.name, name)}'
            f" dims: [ {', '.join(['-1'] * (file[name].ndim - 1))} ] }} ]"
            for name in spec.inputs
        ]
    outputs = [f'output [ {{ name: "{name}" data_type: TYPE_FP32 dims: [ -1 ] }} ]' for name in spec.outputs]
    return "\n".join(
        [
            f'name: "{MODEL}"',
            'backend: "python"',
            f"max_batch_size: {MOST}",
            *inputs,
            *outputs,
            "instance_group [ { count: 1 kind: KIND_CPU } ]",  # the module moves itself to the GPU
            f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY_US} }}" if batched else "",
            f'parameters {{ key: "form" value {{ string_value: "{form.value}" }} }}',
        ]
    )


def main() -> None:
    """Lay it out, and serve it until standard input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine")
    parser.add_argument("form", choices=[form.value for form in PytorchForm])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--triton", type=Path, required=True)
    parser.add_argument("--batched", action="store_true")
    options = parser.parse_args()
    store, jobs = LocalStore(options.home / "store"), json.loads((options.home / "jobs.json").read_text())
    engine_id = next(one for one in jobs if one.startswith(f"{options.engine}@"))
    job = take_job(store, engine_id, jobs[engine_id])
    feeds = options.home / "serving" / f"{options.engine}.npz"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / MODEL
        (folder / "1").mkdir(parents=True)
        assert job.module is not None
        request = fetch_module(store, job.module, job.spec, folder / "module")
        (folder / "request.json").write_text(request.model_dump_json())
        shutil.copy(feeds, folder / "feeds.npz")
        shutil.copy(Path(__file__).with_name("pytorch_model.py"), folder / "1" / "model.py")
        (folder / "1" / "path.json").write_text(json.dumps([path for path in sys.path if path]))
        text = config(job.spec, PytorchForm(options.form), feeds, batched=options.batched)
        (folder / "config.pbtxt").write_text(text)
        with TritonServer(find_server(options.triton), Path(name), [MODEL], start_limit_s=START_S) as server:
            print(json.dumps({"http": server.http, "pid": server.pid}), flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    main()
