"""What the small examples share: samples as shards, training, a calibration set, and a command line.

A sample is a mapping from the names of arrays to what one sample holds of them, without the batch: the model's inputs,
``label`` and ``slice.<name>``. Names that begin with ``_`` are for training and are not shipped.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import io
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
import yaml

from tasks.model.set_manifest import make_manifest, write_manifest
from tasks.specs import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    Sample = Mapping[str, Any]
    Arrays = dict[str, np.ndarray]

EXAMPLES = Path(__file__).resolve().parent
COLLECTED = (dt.date(2026, 11, 30), dt.date(2026, 11, 30))
"""Day on which the shipped sets were made. Fixed, so that a rerun gives the same bytes; move it with a generator."""
MAX_AGE_DAYS = 365
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""


@dataclass(frozen=True)
class Example:
    """One example: how its samples are drawn, what its network learns, and how well it must do it.

    ``draw`` makes that many samples from a seed; ``loss`` is that of one batch of tensors; ``quality`` is what the
    network reaches on the shards of the validation data, one figure of which the largest is best and below ``minimum``
    nothing is written. ``sizes`` are the samples of validation, calibration and training.
    """

    name: str
    calibration: str
    source: str
    inputs: tuple[str, ...]
    draw: Callable[[int, int], Sequence[Sample]]
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    quality: Callable[[nn.Module, Sequence[Arrays]], float]
    minimum: float
    sizes: tuple[int, int, int]
    steps: int
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 20261130

    @property
    def folder(self) -> Path:
        """The model directory."""
        return EXAMPLES / self.name


class PoorQualityError(Exception):
    """The trained network does not reach what the example asks for."""


def unique(samples: Sequence[Sample], inputs: Sequence[str]) -> list[Sample]:
    """Keep the first of all samples whose inputs are the same."""
    found: dict[bytes, Sample] = {}
    for sample in samples:
        key = b"".join(repr(sample[name].shape).encode() + sample[name].tobytes() for name in inputs)
        found.setdefault(key, sample)
    return list(found.values())


def split(example: Example, seed: int, sizes: Sequence[int]) -> list[list[Sample]]:
    """Draw samples and deal them out in parts of these sizes; no two have the same inputs.

    Raises:
        ValueError: the generator repeats itself so often that the last part would be empty.
    """
    samples = unique(example.draw(seed, sum(sizes)), example.inputs)
    ends = np.cumsum(sizes)[:-1]
    parts = [samples[start:end] for start, end in zip([0, *ends], [*ends, len(samples)], strict=True)]
    if not parts[-1]:
        message = f"{example.name}: only {len(samples)} of {sum(sizes)} samples differ; ask for fewer"
        raise ValueError(message)
    return parts


def stack(samples: Sequence[Sample], inputs: Sequence[str]) -> dict[str, Arrays]:
    """Return one shard for each shape that the first input has, by the name of its file."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault("x".join(map(str, sample[inputs[0]].shape)), []).append(sample)
    return {
        f"samples-{shape}.npz": {name: np.stack([one[name] for one in group]) for name in group[0]}
        for shape, group in sorted(groups.items())
    }


def fit(example: Example, network: nn.Module, shards: Sequence[Arrays], steps: int) -> None:
    """Train in place: AdamW, a learning rate that warms up and falls to zero; each batch is of one shard."""
    generator = np.random.default_rng(example.seed)
    sizes = np.array([len(shard[example.inputs[0]]) for shard in shards])
    optimizer = torch.optim.AdamW(network.parameters(), example.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM_UP * steps + 1), 1 - step / (steps + 1))
    )
    network.train()
    for step in range(steps):
        shard = shards[generator.choice(len(shards), p=sizes / sizes.sum())]
        rows = generator.integers(len(shard[example.inputs[0]]), size=example.batch)
        batch = {name: torch.from_numpy(array[rows]) for name, array in shard.items() if not name.startswith("slice.")}
        loss = example.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            sys.stderr.write(f"step {step}/{steps}: loss {loss.item():.4f}\n")
    network.eval()


def label_loss(name: str) -> Callable[[nn.Module, dict[str, Tensor]], Tensor]:
    """Return the loss of a network that gives the logits of ``label`` from the input of this name: cross-entropy."""
    return lambda network, batch: torch.nn.functional.cross_entropy(
        network(batch[name]), batch["label"], label_smoothing=0.05
    )


def label_accuracy(name: str) -> Callable[[nn.Module, Sequence[Arrays]], float]:
    """Return the quality of such a network: the share of samples whose label has the largest logit."""

    def accuracy(network: nn.Module, shards: Sequence[Arrays]) -> float:
        with torch.inference_mode():
            found = [network(torch.from_numpy(shard[name])).argmax(-1).numpy() == shard["label"] for shard in shards]
        return float(np.concatenate(found).mean())

    return accuracy


def shipped(shards: Mapping[str, Arrays], *, with_label: bool) -> dict[str, bytes]:
    """Return the files of shards, without what is for training alone and, unless asked for, without labels."""
    files = {}
    for name, arrays in shards.items():
        kept = {
            key: array for key, array in arrays.items() if not key.startswith("_") and (with_label or key != "label")
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **kept)
        files[name] = buffer.getvalue()
    return files


def place(files: Mapping[str, bytes], folder: Path, manifest: Callable[[Path], None] | None = None) -> None:
    """Put a folder of these files in the place of what is there; ``manifest`` adds to the files before that."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
        fresh = Path(made) / "fresh"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        if manifest is not None:
            manifest(fresh)
        if folder.exists():
            folder.rename(Path(made) / "old")
        fresh.rename(folder)


def describe(example: Example, folder: Path) -> None:
    """Write the manifest of the calibration set that lies in ``folder``."""
    spec = yaml.safe_load((example.folder / "model.yaml").read_text(encoding="utf-8"))
    manifest = make_manifest(
        folder,
        name=example.calibration,
        inputs={name: InputSpec(dtype=one["dtype"], shape=tuple(one["shape"])) for name, one in spec["inputs"].items()},
        source=example.source,
        collected=COLLECTED,
        max_age_days=MAX_AGE_DAYS,
        resembles=f"../../examples/{example.name}/validation",
    )
    write_manifest(folder, manifest)


@dataclass(frozen=True)
class Options:
    """Where to put what is made, the steps of training, and the quality below which nothing is written."""

    out: Path
    calibration_out: Path
    steps: int
    minimum: float
    threads: int


def run(example: Example, options: Options) -> float:
    """Draw the samples, train, measure and write everything; returns the quality.

    Raises:
        PoorQualityError: the quality is below the minimum; nothing is written then.
    """
    started = time.perf_counter()
    torch.set_num_threads(options.threads)
    validation, calibration, training = (
        stack(part, example.inputs) for part in split(example, example.seed, example.sizes)
    )
    torch.manual_seed(example.seed)
    network = example.build()
    fit(example, network, list(training.values()), options.steps)
    quality = example.quality(network, list(validation.values()))
    if not quality >= options.minimum:  # written so that NaN fails, too
        message = (
            f"the quality {quality:.4f} is below {options.minimum}, nothing was written; train with more --steps, or"
            " lower --minimum"
        )
        raise PoorQualityError(message)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    place(shipped(validation, with_label=True), options.out / "validation")
    place(
        shipped(calibration, with_label=False),
        options.calibration_out / example.calibration,
        lambda folder: describe(example, folder),
    )
    facts = {
        "seed": example.seed,
        "steps": options.steps,
        "quality": round(quality, 4),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "torch": torch.__version__.split("+", maxsplit=1)[0],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (options.out / "weights.safetensors").write_bytes(weights)
    (options.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    sys.stderr.write(f"{facts}; {time.perf_counter() - started:.0f} s\n")
    return quality


def main(example: Example, arguments: Sequence[str] | None = None) -> int:
    """Train ``example`` as the command line says; returns 0, or 3 where the quality is too low."""
    parser = argparse.ArgumentParser(
        description=f"Train the example {example.name}; write weights, validation data and the calibration set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sets = EXAMPLES.parent / "calibration_sets"
    parser.add_argument("--out", type=Path, default=example.folder, help="folder for weights and validation data")
    parser.add_argument("--calibration-out", type=Path, default=sets, help="folder of the calibration sets")
    parser.add_argument("--steps", type=int, default=example.steps, help="steps of training")
    parser.add_argument("--minimum", type=float, default=example.minimum, help="quality below which nothing is written")
    parser.add_argument("--threads", type=int, default=1, help="processor threads; another number rounds differently")
    try:
        run(example, Options(**vars(parser.parse_args(arguments))))
    except PoorQualityError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    return 0
