"""Convert the zoo: `python tests/zoo/run.py [NAME...]`, or `make zoo`. Prints a line a model.

It ends with 1 where more than two are not right.

Each model is converted by the command line, as its owner would, in a home of its own, to FP16 and INT8 on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import yaml  # noqa: E402 - after the path, as what follows

from tasks.store.local import LocalStore  # noqa: E402 - found by the path above
from tests.zoo.directory import PRECISIONS, write_animal  # noqa: E402 - found by the path above
from tests.zoo.kept import judge_kept  # noqa: E402 - as above
from tests.zoo.table import FAIL, TRAINED, ZOO, Animal, Example  # noqa: E402 - as above

MOST_WRONG, AT_ONCE, LIMIT_S = 2, 2, 900
NONE = "none"
WRITING = threading.Lock()
"""Models are drawn one after the other: torch has one generator for all threads."""


@dataclass(frozen=True)
class Found:
    """What became of a model: the verdicts by precision, why the first wrong or open one is so, and seconds.

    `objections` are those of a second opinion, computed apart.
    """

    animal: Animal | Example
    verdicts: dict[str, str]
    why: str
    seconds: float
    objections: tuple[str, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether each verdict is one that the table holds for right, and no other opinion is against it."""
        return not self.objections and all(
            self.verdicts[precision] in getattr(self.animal, precision) for precision in PRECISIONS
        )

    @property
    def line(self) -> str:
        """For people."""
        shown = "  ".join(f"{self.verdicts[precision]:12}" for precision in PRECISIONS)
        why = "".join(f"  {text}" for text in (self.why, *self.objections) if text)
        return f"{'✓' if self.is_right else '✕'} {self.animal.name:24} {shown} {self.seconds:4.0f} s{why}"


def convert(animal: Animal | Example, folder: Path) -> Found:
    """Convert it by the command line."""
    home = folder / "home" / animal.name
    if isinstance(animal, Animal):
        with WRITING:
            model = write_animal(animal, folder / animal.name)
    else:
        model = REPOSITORY / "examples" / animal.folder
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "ENGINEGATE_"))}
    environment |= {"ENGINEGATE_HOME": str(home), "ENGINEGATE_BENCHMARK_S": "0.1"}
    command = [str(Path(sys.executable).with_name("enginegate")), "convert", str(model), "--target", "cpu", "--json"]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Found(animal, dict.fromkeys(PRECISIONS, NONE), f"not done after {LIMIT_S} s", LIMIT_S)
    seconds = time.perf_counter() - started
    try:
        return _with_opinions(_read(animal, json.loads(done.stdout), seconds), model, home)
    except ValueError:
        return Found(animal, dict.fromkeys(PRECISIONS, NONE), done.stderr.strip()[-300:], seconds)


def _read(animal: Animal, document: dict[str, object], seconds: float) -> Found:
    engines = document.get("engines")
    reports = engines if isinstance(engines, list) else []
    verdicts, reasons = dict.fromkeys(PRECISIONS, NONE), []
    for report in reports:
        precision = report["engine_id"].partition("@")[0].rpartition("-")[2]
        verdicts[precision] = report["verdict"]
        if report["verdict"] != "pass":
            said = [rule["sentence"] for rule in report["rules"] if rule["outcome"] != "pass"]
            reasons.append(f"{precision}: {next(iter([*report['defects'], *said]), report['reason'])}")
    return Found(animal, verdicts, "; ".join(reasons) or str(document.get("error") or ""), seconds)


def _with_opinions(found: Found, model: Path, home: Path) -> Found:
    """Hold each verdict on an engine against a second opinion on what its conversion left behind."""
    outputs = yaml.safe_load((model / "model.yaml").read_text(encoding="utf-8"))["outputs"]
    store = LocalStore(home / "store")
    objections = []
    for precision, verdict in found.verdicts.items():
        opinion = judge_kept(store, outputs, precision)
        if opinion is None:
            said = "" if verdict in {FAIL, NONE} else f"{verdict}, though there is no engine"
        else:
            said = opinion.objection(verdict)
        if said:
            objections.append(f"{precision}: {said}")
    return replace(found, objections=tuple(objections))


def main() -> int:
    """Convert those that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--keep", type=Path, help="write the models and their stores there, and keep them")
    options = parser.parse_args()
    known = {animal.name: animal for animal in (*ZOO, *TRAINED)}
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"{', '.join(unknown)}: not in the zoo; choose from {', '.join(known)}")
    chosen = [known[name] for name in options.names] or list(known.values())
    folder = options.keep or Path(tempfile.mkdtemp(prefix="zoo-"))
    folder.mkdir(parents=True, exist_ok=True)
    right = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(lambda animal: convert(animal, folder), chosen):
            right += found.is_right
            print(found.line, flush=True)
    if options.keep is None:
        shutil.rmtree(folder)
    needed = max(1, len(chosen) - MOST_WRONG)
    print(f"{right} of {len(chosen)} right, {needed} are needed")
    return 0 if right >= needed else 1


if __name__ == "__main__":
    sys.exit(main())
