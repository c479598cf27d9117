"""Completes the model directories beside this file: writes their seeded data, and copies `tiling.py` into each.

    python tests/benchmarks/speed/make_data.py

The data compress to little, as the weights do: each sample repeats one block of numbers in an order of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import yaml

from tests.sets import describe

HERE = Path(__file__).resolve().parent
PERIOD = 4093
SEED = 20261121
VALIDATION_SAMPLES = 32
CALIBRATION_SAMPLES = 32
FLOATS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet50": ("images", (3, 224, 224)),
    "conformer": ("mels", (300, 80)),
    "whisper_small_encoder": ("mels", (80, 3000)),
}
"""Model directory to its input's name and the shape of a sample."""

TOKENS, VOCABULARY, FIRST_WORD = 512, 50265, 4


def make_floats(samples: int, shape: tuple[int, ...], first: int) -> np.ndarray:
    """Standard normal values, float32; sample numbers `first` and on decide which."""
    block = np.random.default_rng(SEED).standard_normal(PERIOD).astype(np.float32)
    places = np.arange(int(np.prod(shape))) % PERIOD
    # A prime period: each stride below it takes the block's values in another order.
    return np.stack([block[places * stride % PERIOD].reshape(shape) for stride in range(first, first + samples)])


def make_tokens(samples: int, seed: int) -> dict[str, np.ndarray]:
    """Texts that fill the whole length: that is what is timed."""
    generator = np.random.default_rng([SEED, seed])
    ids = generator.integers(FIRST_WORD, VOCABULARY, (samples, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def complete(folder: Path) -> None:
    """Write what a model directory lacks: `tiling.py`, 32 validation samples and a calibration set of 32."""
    shutil.copyfile(HERE / "tiling.py", folder / "tiling.py")
    (folder / "calibration").mkdir(exist_ok=True)
    for samples, first, path in (
        (VALIDATION_SAMPLES, 1, folder / "validation.npz"),
        (CALIBRATION_SAMPLES, 1 + VALIDATION_SAMPLES, folder / "calibration" / "set.npz"),
    ):
        if folder.name in FLOATS:
            name, shape = FLOATS[folder.name]
            arrays = {name: make_floats(samples, shape, first)}
        else:
            arrays = make_tokens(samples, first)
        np.savez_compressed(path, allow_pickle=False, **arrays)
    inputs = yaml.safe_load((folder / "model.yaml").read_text())["inputs"]
    describe(folder / "calibration", inputs, name=folder.name)


def main() -> None:
    """Complete every directory; the same seed gives the same data."""
    for folder in sorted(path.parent for path in HERE.glob("*/model.yaml")):
        complete(folder)
        files = sorted(folder.rglob("*.npz"))
        print(f"{folder.name}: {', '.join(f'{path.name} {path.stat().st_size / 1e6:.2f} MB' for path in files)}")


if __name__ == "__main__":
    main()
