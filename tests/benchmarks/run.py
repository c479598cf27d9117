"""`make bench`: measures what README promises, prints a table and writes bench.json.

    python tests/benchmarks/run.py [--only NAME]… [--draws N]

Every measurement is a function that returns rows of (what, measured, promised). Conversions run through the command
line, as a user's would, on a copy of examples/essay_scorer with homes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from calibration_check import calibration_check
from drift import drift
from gate.asked import asked
from gate.calibration import DRAWS
from gate.report import calibration, naive_pvalue, size, tails, with_draws
from memory import compare_peak_bytes
from plan import plan
from pushes import pushes
from registry import registry
from rows import Row
from safetensors.numpy import load_file, save_file

from flows.commands.cli import COMMANDS
from tasks.store.digests import digest_file

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINEGATE = (str(Path(sys.executable).parent / "enginegate"),)
WARM_RUNS = 3
HELP_RUNS = 11
MIB = 1 << 20
# What is not a stage: everything else of a run's wall time is Prefect, MLflow and start-up.
NO_STAGES = ("track", "register")


class Project:
    """A copy of the essay scorer and its calibration set, with a home of its own."""

    def __init__(self, root: Path, benchmark_s: float = 3.0) -> None:
        self.home, self.model = root / "home", root / "examples" / "essay_scorer"
        self.calibration = root / "calibration_sets" / "essays"
        shutil.copytree(REPOSITORY / "examples" / "essay_scorer", self.model)
        shutil.copytree(REPOSITORY / "calibration_sets" / "essays", self.calibration)
        self.environment = os.environ | {
            "ENGINEGATE_HOME": str(self.home),
            "ENGINEGATE_BENCHMARK_S": str(benchmark_s),
            "PREFECT_HOME": str(root / "prefect"),
        }

    def command(self, *arguments: str) -> list[str]:
        return [
            *ENGINEGATE,
            "convert",
            str(self.model),
            "--target",
            "cpu",
            *arguments,
        ]

    def convert(self) -> tuple[float, dict[str, Any]]:
        """Wall seconds and JSON document of a conversion that must pass."""
        started = time.perf_counter()
        done = subprocess.run(self.command("--json"), env=self.environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"the conversion ended with {done.returncode}\n{done.stderr}")
        return seconds, json.loads(done.stdout)


def stages(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for step in document["steps"] if step["name"].partition(" ")[0] not in NO_STAGES]


def worked(document: dict[str, Any]) -> list[str]:
    return [step["name"] for step in stages(document) if not step["cached"]]


def again(scratch: Path) -> list[Row]:
    """A cold run, the same again, and the time outside stages."""
    project = Project(scratch)
    cold, document = project.convert()
    repeats = [project.convert() for _ in range(WARM_RUNS)]
    warm = statistics.median(seconds for seconds, _ in repeats)
    idle = not any(worked(again) for _, again in repeats)
    outside = cold - sum(step["seconds"] for step in stages(document))
    slowest = sorted(stages(document), key=lambda step: -step["seconds"])[:3]
    return [
        Row("first conversion, cold", f"{cold:.0f} s", "", None),
        Row("its longest stages", ", ".join(f"{s['name']} {s['seconds']:.0f} s" for s in slowest), "", None),
        Row("outside stages, cold", f"{outside:.1f} s", "≤ 15 s", outside <= 15),
        Row("same commit again", f"{warm:.1f} s, {100 * warm / cold:.1f} %", "≤ 10 %", warm <= 0.1 * cold),
        Row("stages that then worked", "none" if idle else "some", "none", idle),
    ]


def _change_policy(project: Project) -> None:
    rules = [f"{{output: {output}, metric: mae, max: 0.02}}" for output in ("score", "traits")]
    (project.model / "policy.yaml").write_text(f"rules: [{', '.join(rules)}]\n")
    specification = project.model / "model.yaml"
    text = specification.read_text()
    specification.write_text(text.replace("data: validation}", "data: validation, policy: policy.yaml}"))


def _change_array(path: Path, name: str) -> None:
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays[name].flat[1] += np.asarray(1, dtype=arrays[name].dtype)
    np.savez_compressed(path, **arrays)


def _change_calibration(folder: Path) -> None:
    path = _first_shard(folder)
    before = digest_file(path)[0].removeprefix("sha256:")
    _change_array(path, "input_ids")
    manifest = folder / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace(before, digest_file(path)[0].removeprefix("sha256:")))


def _first_shard(folder: Path) -> Path:
    return min(folder.glob("*.npz"))


def _change_weight(project: Project) -> None:
    path = project.model / "weights.safetensors"
    weights = load_file(path)
    weights[min(weights)].flat[0] += 0.01
    save_file(weights, path)


def _change_option(project: Project) -> None:
    specification = project.model / "model.yaml"
    specification.write_text(specification.read_text().replace("method: percentile", "method: minmax"))


CHANGES: dict[str, tuple[Callable[[Project], None], set[str]]] = {
    "the policy": (_change_policy, set()),
    "the calibration set": (lambda p: _change_calibration(p.calibration), {"int8"}),
    "the calibration method": (_change_option, {"int8"}),
    "one label": (lambda p: _change_array(_first_shard(p.model / "validation"), "label"), {"compare"}),
    "one validation sample": (
        lambda p: _change_array(_first_shard(p.model / "validation"), "input_ids"),
        {"reference", "fresh", "compare"},
    ),
    "one weight": (_change_weight, {"export", "reference", "fresh", "convert", "build", "compare", "benchmark"}),
}


def changes(scratch: Path) -> list[Row]:
    """What a change redoes: each on top of the one before."""
    project = Project(scratch, benchmark_s=0.3)
    project.convert()
    rows = []
    for what, (change, needed) in CHANGES.items():
        change(project)
        seconds, document = project.convert()
        done = worked(document)
        kinds = {word for name in done for word in name.split()}
        only_int8 = needed != {"int8"} or all(name.endswith("int8") for name in done)
        ok = needed <= kinds and bool(done) == bool(needed) and only_int8
        rows.append(Row(f"redone after a change of {what}", ", ".join(done) or "nothing", f"{seconds:.0f} s", ok))
    return rows


def kills(scratch: Path) -> list[Row]:
    """`kill -9` in the middle of every stage, then the same command."""
    seconds = {step["name"]: step["seconds"] for step in stages(Project(scratch / "timed", 0.3).convert()[1])}
    project = Project(scratch / "killed", benchmark_s=0.3)
    names = [name for name in seconds if not name.endswith("data")]
    finished: list[str] = []
    for before, name in zip([None, *names[:-1]], names, strict=True):
        finished += _kill_during(project, before, seconds[name] / 2)
    finished += worked(project.convert()[1])
    extra = [name for name in names if finished.count(name) > 1]
    unfinished = [str(path) for path in (project.home / "store" / "scratch").glob("*")]
    blobs = [path for path in (project.home / "store" / "blobs").rglob("*") if path.is_file()]
    broken = [path for path in blobs if digest_file(path)[0] != f"sha256:{path.parent.name}{path.name}"]
    return [
        Row(f"killed in each of {len(names)} stages: finished stages redone", str(len(extra)), "0", not extra),
        Row("unfinished folders left", str(len(unfinished)), "0", not unfinished),
        Row(f"damaged artifacts of {len(blobs)}", str(len(broken)), "0", not broken),
    ]


def _kill_during(project: Project, after: str | None, seconds: float) -> list[str]:
    """Kill a run `seconds` after its step `after`; return the steps that it had done itself by then."""
    done = []
    process = subprocess.Popen(project.command(), env=project.environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("✓") and "(cached)" not in line:
            done.append(line[2:].partition("  ")[0])
        if line.startswith(f"✓ {after or 'validation data'}"):
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return done


def start_up(_scratch: Path) -> list[Row]:
    """`enginegate --help`, and that of each command: the slowest."""
    own, each = _help_s(), {name: _help_s(name) for name in COMMANDS}
    slowest = max(each, key=lambda name: each[name])
    return [
        Row("enginegate --help", f"{own:.2f} s", "≤ 0.4 s", own <= 0.4),
        Row(f"the slowest help of a command, {slowest}", f"{each[slowest]:.2f} s", "≤ 0.4 s", each[slowest] <= 0.4),
    ]


def _help_s(*command: str) -> float:
    taken = []
    for _ in range(HELP_RUNS):
        started = time.perf_counter()
        subprocess.run([*ENGINEGATE, *command, "--help"], check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def memory(scratch: Path) -> list[Row]:
    """Compare's peak memory at 10,000 and 100,000 samples."""
    few, many = (compare_peak_bytes(scratch / str(samples), samples) for samples in (10_000, 100_000))
    growth = many / few - 1
    measured = f"{few / MIB:.0f} MiB → {many / MIB:.0f} MiB, {100 * growth:+.1f} %"
    return [Row("compare's peak memory, 10,000 → 100,000 samples", measured, "≤ 10 %", growth <= 0.1)]


def clone(scratch: Path) -> list[Row]:
    """`make demo` and `make test` in a bare clone with a virtual environment of its own."""
    folder = scratch / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENGINEGATE_")}
    environment |= {"PREFECT_HOME": str(scratch / "prefect"), "PYTHONPATH": ""}
    rows = []
    for goal, minutes in (("demo", 8), ("test", 10)):
        started = time.perf_counter()
        python = f"PYTHON={Path(sys.base_prefix) / 'bin' / 'python3'}"
        subprocess.run(["make", python, goal], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        taken = (time.perf_counter() - started) / 60
        rows.append(Row(f"make {goal}, bare clone", f"{taken:.1f} min", f"≤ {minutes} min", taken <= minutes))
    return rows


MEASUREMENTS = (
    start_up,
    memory,
    size,
    naive_pvalue,
    calibration,
    tails,
    asked,
    calibration_check,
    drift,
    registry,
    plan,
    pushes,
    again,
    changes,
    kills,
    clone,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [measurement.__name__ for measurement in MEASUREMENTS]
    parser.add_argument("--only", action="append", choices=names, help="measure this alone; may be repeated")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each cell of the gate's calibration")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    rows: list[Row] = []
    for measurement in MEASUREMENTS:
        if not options.only or measurement.__name__ in options.only:
            with tempfile.TemporaryDirectory() as scratch:
                chosen = with_draws(options.draws) if measurement is calibration else measurement
                rows += _printed(chosen(Path(scratch)))
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    machine = f"{cores} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.machine()}"
    when = datetime.now(timezone.utc).date().isoformat()
    options.output.write_text(
        json.dumps({"date": when, "machine": machine, "rows": [asdict(row) for row in rows]}, indent=1)
    )
    print(f"\n{when}, {machine}; written to {options.output}")


def _printed(rows: list[Row]) -> list[Row]:
    for row in rows:
        mark = {True: "✓", False: "✕", None: " "}[row.ok]
        print(f"| {mark} {row.what} | {row.measured} | {row.promised} |", flush=True)
    return rows


if __name__ == "__main__":
    main()
