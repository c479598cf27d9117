"""Write calibration_sets/essays_no_weak_levels: as many essays as calibration_sets/essays has, none of levels 1 and 2.

It shows what such a set does; `enginegate calibration check` names the gap.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent

if TYPE_CHECKING:
    from types import ModuleType

    from examples.essay_scorer import essays, shards
else:

    def _load_sibling(name: str) -> ModuleType:
        """Import a module of this folder under a name of its own, wherever this script was started from."""
        qualified = f"essay_scorer_{name}"
        if qualified not in sys.modules:
            spec = importlib.util.spec_from_file_location(qualified, HERE / f"{name}.py")
            sys.modules[qualified] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[qualified])
        return sys.modules[qualified]

    essays, shards = (_load_sibling(name) for name in ("essays", "shards"))

NAME = "essays_no_weak_levels"
SEED = 20261124
"""Not one of train.py's."""
ESSAYS = 256
WEAK = (1, 2)
SOURCE = (
    "Made by the seeded generator examples/essay_scorer/essays.py with a seed of its own; no text of a person. "
    "Without essays of levels 1 and 2: it shows what such a set does."
)


def main(out: Path = HERE.parents[1] / "calibration_sets") -> None:
    """Write the set below ``out``."""
    tokenizer = essays.Tokenizer()
    written = [essay for essay in essays.write_essays(SEED, 2 * ESSAYS) if essay.level not in WEAK][:ESSAYS]
    samples = [shards.Sample(tuple(tokenizer.encode(essay.text)), essay.level) for essay in written]
    files = shards.make_shards(samples, essays.PAD_ID, with_label=False)
    manifest = shards.make_manifest(files, samples, SOURCE, NAME)
    shards.place({**files, "manifest.yaml": manifest}, out / NAME)


if __name__ == "__main__":
    main()
