"""`enginegate plan` of a push to a large repository: 200 model directories and 1,000 commits, as a command."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rows import Row

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS, COMMITS = 200, 1_000
ROUNDS = 5
MOST_S = 2.0
SPEC = """name: model-{number:03d}
source: model.py:build
weights: weights.safetensors
inputs:
  input_ids: {{dtype: int64, shape: [batch, sequence]}}
  attention_mask: {{dtype: int64, shape: [batch, sequence]}}
dims:
  batch: {{min: 1, opt: 8, max: 32}}
  sequence: {{min: 16, opt: 128, max: 512}}
outputs:
  score: {{kind: score, range: [0, 1]}}
targets: [cpu, t4, a10g, a100]
precisions: [fp32, fp16]
validation: {{data: validation.npz, policy: policy.yaml}}
"""
POLICY = "rules: [{output: score, metric: mae, max: 0.1}]\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{number:064x}\nsize 500000000\n"


def plan(scratch: Path) -> list[Row]:
    """Wall times of the whole command, start of Python included; medians of five.

    Args:
        scratch: an empty folder.
    """
    repository = scratch / "models"
    write_repository(repository)
    pushes = {"one model": ["--to", "HEAD"], "50 models": ["--from", "HEAD~50", "--to", "HEAD"]}
    pushes["a new branch, all models"] = ["--from", "0" * 40, "--to", "HEAD"]
    rows = []
    for name, arguments in pushes.items():
        seconds = statistics.median(_timed(repository, arguments, scratch / "home") for _ in range(ROUNDS))
        promised = f"≤ {MOST_S:g} s" if name == "one model" else ""
        ok = seconds <= MOST_S if promised else None
        what = f"plan of {name}, {MODELS} model directories, {COMMITS:,} commits"
        rows.append(Row(what, f"{seconds:.2f} s, load {os.getloadavg()[0]:.1f}", promised, ok))
    return rows


def _timed(repository: Path, arguments: list[str], home: Path) -> float:
    environment = os.environ | {"ENGINEGATE_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "flows.commands.cli", "plan", str(repository), *arguments, "--json"]
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def write_repository(path: Path) -> None:
    """A repository in which every commit after the first edits the source of one model."""
    subprocess.run(["git", "init", "--quiet", str(path)], check=True)
    stream = "".join(_commit(number) for number in range(COMMITS))
    done = ["fast-import", "--quiet"]
    subprocess.run(["git", "-C", str(path), *done], input=stream.encode(), check=True)
    subprocess.run(["git", "-C", str(path), "symbolic-ref", "HEAD", "refs/heads/bench"], check=True)


def _commit(number: int) -> str:
    head = f"commit refs/heads/bench\ncommitter Ann <ann@example.org> {1_700_000_000 + number} +0000\n{_data('push')}"
    if number:
        return head + _file(f"models/{number % MODELS:03d}/model.py", f"def build():\n    return {number}\n")
    return head + "".join(
        _file(f"models/{model:03d}/{name}", content)
        for model in range(MODELS)
        for name, content in {
            "model.yaml": SPEC.format(number=model),
            "policy.yaml": POLICY,
            "model.py": "def build(): ...\n",
            "layers/blocks.py": f"WIDTH = {model}\n",
            "weights.safetensors": POINTER.format(number=model),
            "validation.npz": POINTER.format(number=model + MODELS),
        }.items()
    )


def _file(path: str, content: str) -> str:
    return f"M 100644 inline {path}\n{_data(content)}"


def _data(content: str) -> str:
    return f"data {len(content.encode())}\n{content}\n"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for row in plan(Path(temporary)):
            print(row)
