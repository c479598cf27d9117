"""Write calibration_sets/oral_quiet_only: as many clips as calibration_sets/oral has, all from quiet rooms.

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

    from examples.oral_scorer import shards, speech
else:

    def _load_sibling(name: str) -> ModuleType:
        """Import a module of this folder under a name of its own, wherever this script was started from."""
        qualified = f"oral_scorer_{name}"
        if qualified not in sys.modules:
            spec = importlib.util.spec_from_file_location(qualified, HERE / f"{name}.py")
            sys.modules[qualified] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[qualified])
        return sys.modules[qualified]

    speech, shards = (_load_sibling(name) for name in ("speech", "shards"))

NAME = "oral_quiet_only"
SEED = 20261124
"""Not one of train.py's, so that no clip is in two sets."""
CLIPS = 90
SOURCE = (
    "Made by the seeded generator examples/oral_scorer/speech.py with a seed of its own; no voice of a person. "
    "Quiet rooms only: it shows what such a set does."
)


def main(out: Path = HERE.parents[1] / "calibration_sets") -> None:
    """Write the set below ``out``."""
    clips = [clip for clip in speech.speak_all(SEED, CLIPS * len(speech.NOISES)) if clip.noise == "quiet"]
    samples = [shards.Sample(clip.mel, clip.overall, clip.level, clip.noise) for clip in clips]
    files = shards.make_shards(samples, with_label=False)
    manifest = shards.make_manifest(files, samples, SOURCE, NAME)
    shards.place({**files, "manifest.yaml": manifest}, out / NAME)


if __name__ == "__main__":
    main()
