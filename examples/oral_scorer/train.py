"""Train the oral scorer on generated answers, and write its weights, validation data and calibration set.

Run it from anywhere: ``python examples/oral_scorer/train.py``. It writes nothing when the held-out answers are not
scored well enough. Exit codes: 0 done, 2 bad option, 3 the scores follow the labels too little.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from examples.oral_scorer import model, shards, speech
else:

    def _load_sibling(name: str) -> ModuleType:
        """Import a module of this folder under a name of its own, wherever this script was started or loaded from."""
        qualified = f"oral_scorer_{name}"
        if qualified not in sys.modules:
            spec = importlib.util.spec_from_file_location(qualified, HERE / f"{name}.py")
            sys.modules[qualified] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[qualified])
        return sys.modules[qualified]

    model, shards, speech = (_load_sibling(name) for name in ("model", "shards", "speech"))

WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""
SOURCE = (
    "Made by the seeded generator examples/oral_scorer/speech.py with a seed of its own; "
    "no voice of a person, disjoint from the training and validation clips."
)

Correlations = dict[str, dict[str, float]]
"""Pearson's r of score and label, by noise condition (or ``all``) and output."""


class PoorAgreementError(Exception):
    """The trained model's scores follow the held-out labels less than asked for."""


@dataclass(frozen=True)
class Options:
    """What to train, on how much, and where to put it. ``minimum_correlation`` is that below which nothing ships."""

    out: Path = HERE
    calibration_out: Path = HERE.parents[1] / "calibration_sets" / "oral"
    seed: int = 20261121
    clips: int = 4500
    validation_clips: int = 600
    calibration_clips: int = 90
    epochs: int = 3
    batch: int = 16
    learning_rate: float = 1e-3
    blocks: int = 4
    threads: int = 1
    minimum_correlation: float = 0.85


@dataclass(frozen=True)
class Outcome:
    """What training reached on the held-out clips, and the time in seconds."""

    correlation: Correlations
    parameters: int
    seconds: float

    @property
    def worst(self) -> float:
        """The lowest correlation of any output in any noise condition; NaN where one is undefined."""
        return float(np.min([value for row in self.correlation.values() for value in row.values()]))


def as_sample(clip: speech.Clip) -> shards.Sample:
    """Return what a data file keeps of a clip."""
    return shards.Sample(clip.mel, clip.overall, clip.level, clip.noise)


def labels_of(clips: Sequence[speech.Clip]) -> NDArray[np.float32]:
    """Return the labels float32 [n, 3] in the order of the model's outputs."""
    return np.array([[getattr(clip, name) for name in model.OUTPUTS] for clip in clips], dtype=np.float32)


def draw_batches(lengths: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of batches of about equal lengths, in random order."""
    order = np.argsort(lengths + rng.uniform(0, 16, size=len(lengths)), kind="stable")
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    for i in rng.permutation(len(chunks)):
        yield chunks[i]


def cut_to_shortest(clips: Sequence[speech.Clip], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return ``mel`` and ``mask`` of the clips, each cut to the shortest at a random place: no padding.

    Padding would enter the statistics of batch norm, which the finished model applies to real frames.
    """
    frames = min(len(clip.mel) for clip in clips)
    starts = [int(rng.integers(len(clip.mel) - frames + 1)) for clip in clips]
    mel = np.stack([clip.mel[start : start + frames] for clip, start in zip(clips, starts, strict=True)])
    return torch.from_numpy(mel), torch.ones(len(clips), frames)


def fit(network: model.OralScorer, clips: Sequence[speech.Clip], options: Options) -> None:
    """Train in place: AdamW, a learning rate that warms up and falls to zero, cross-entropy on soft labels."""
    rng = np.random.default_rng([options.seed, 1])
    lengths = np.array([len(clip.mel) for clip in clips])
    labels = torch.from_numpy(labels_of(clips))
    steps = options.epochs * -(-len(lengths) // options.batch)
    optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM_UP * steps + 1), 1 - step / (steps + 1))
    )
    loss_of = nn.BCEWithLogitsLoss()
    network.train()
    for epoch in range(options.epochs):
        total = 0.0
        for batch in draw_batches(lengths, options.batch, rng):
            logits = network.logits(*cut_to_shortest([clips[i] for i in batch], rng))
            loss = loss_of(logits, labels[torch.from_numpy(batch)])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        sys.stderr.write(f"epoch {epoch + 1}/{options.epochs}: loss {total / len(lengths):.4f}\n")
    network.eval()


def predict(network: nn.Module, clips: Sequence[speech.Clip], batch: int) -> NDArray[np.float32]:
    """Return the scores float32 [n, 3] of padded clips, in their order and that of the model's outputs."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i].mel))
    scores = np.empty((len(clips), len(model.OUTPUTS)), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            samples = [as_sample(clips[i]) for i in chunk]
            arrays = shards.pad(samples, len(samples[-1].mel))
            outputs = network(*(torch.from_numpy(array) for array in arrays))
            scores[chunk] = torch.stack(outputs, dim=1).numpy()
    return scores


def correlate(scores: NDArray[np.float32], clips: Sequence[speech.Clip]) -> Correlations:
    """Return Pearson's r of ``scores`` [n, 3] and the clips' labels, by noise condition and output."""
    labels = labels_of(clips)
    noises = np.array([clip.noise for clip in clips])
    rows = {"all": np.ones(len(clips), dtype=bool)} | {noise: noises == noise for noise in speech.NOISES}
    return {
        name: {
            output: float(np.corrcoef(scores[chosen, i], labels[chosen, i])[0, 1])
            for i, output in enumerate(model.OUTPUTS)
        }
        for name, chosen in rows.items()
    }


def train(
    options: Options, training: Sequence[speech.Clip], validation: Sequence[speech.Clip]
) -> tuple[model.OralScorer, Outcome]:
    """Train a network and measure it on held-out clips. The same options give the same weights on one machine."""
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = model.OralScorer(model.ConformerConfig(blocks=options.blocks))
            fit(network, training, options)
        scores = predict(network, validation, options.batch)
    finally:
        torch.set_num_threads(threads)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return network, Outcome(correlate(scores, validation), parameters, time.perf_counter() - started)


def report(options: Options, outcome: Outcome) -> bytes:
    """Return ``training.json``, UTF-8: what was trained with what, and how well. Nothing of the host or the hour."""
    content: dict[str, Any] = {
        "seed": options.seed,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+", maxsplit=1)[0],
            "numpy": np.__version__,
            "safetensors": safetensors.__version__,
        },
        "clips": {
            "training": options.clips,
            "validation": options.validation_clips,
            "calibration": options.calibration_clips,
        },
        "epochs": options.epochs,
        "batch": options.batch,
        "learning_rate": options.learning_rate,
        "blocks": options.blocks,
        "parameters": outcome.parameters,
        "correlation": {
            noise: {output: round(value, 4) for output, value in row.items()}
            for noise, row in outcome.correlation.items()
        },
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def run(options: Options) -> Outcome:
    """Make the clips, train, measure and write everything.

    Raises:
        PoorAgreementError: a correlation on the held-out clips is below ``minimum_correlation``; nothing is written
            then.
    """
    training = speech.speak_all(options.seed, options.clips)
    validation = speech.speak_all(options.seed + 1, options.validation_clips)
    calibration = [as_sample(clip) for clip in speech.speak_all(options.seed + 2, options.calibration_clips)]
    network, outcome = train(options, training, validation)
    if not outcome.worst >= options.minimum_correlation:  # written so that NaN fails, too
        message = (
            f"the lowest held-out correlation {outcome.worst:.4f} is below {options.minimum_correlation}, nothing was "
            "written; train on more --clips or --epochs, or lower --minimum-correlation"
        )
        raise PoorAgreementError(message)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    calibration_files = shards.make_shards(calibration, with_label=False)
    manifest = shards.make_manifest(calibration_files, calibration, SOURCE)
    validation_files = shards.make_shards([as_sample(clip) for clip in validation], with_label=True)
    shards.place(validation_files, options.out / "validation")
    shards.place({**calibration_files, "manifest.yaml": manifest}, options.calibration_out)
    shards.place({"weights.safetensors": weights, "training.json": report(options, outcome)}, options.out)
    return outcome


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line; it exits with 2 when an option is unknown or unusable."""
    default = Options()
    parser = argparse.ArgumentParser(
        description="Train the oral scorer; write weights, validation data and calibration set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=default.out, help="folder for weights and validation data")
    parser.add_argument("--calibration-out", type=Path, default=default.calibration_out, help="folder for that set")
    parser.add_argument("--seed", type=_natural, default=default.seed, help="seed of clips and training, 0 or more")
    for name, text in (
        ("clips", "clips to train on"),
        ("validation_clips", "held-out clips"),
        ("calibration_clips", "clips in the calibration set"),
        ("epochs", "passes over the training clips"),
        ("batch", "clips a step"),
        ("blocks", "Conformer blocks; build() expects the default"),
        ("threads", "processor threads; another number rounds differently, so the weights differ slightly"),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive, default=getattr(default, name), help=text)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="highest learning rate")
    parser.add_argument(
        "--minimum-correlation", type=float, default=default.minimum_correlation, help="below it, nothing is written"
    )
    return Options(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    """Read an option that counts something."""
    value = int(text)
    if value < 1:
        message = f"{value} is not 1 or more"
        raise argparse.ArgumentTypeError(message)
    return value


def _natural(text: str) -> int:
    """Read a seed; NumPy takes none below 0."""
    value = int(text)
    if value < 0:
        message = f"{value} is not 0 or more"
        raise argparse.ArgumentTypeError(message)
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script with ``arguments`` (default: the command line's) and return its exit code."""
    try:
        outcome = run(parse_options(arguments))
    except PoorAgreementError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    for noise, row in outcome.correlation.items():
        values = ", ".join(f"{output} {value:.3f}" for output, value in row.items())
        sys.stderr.write(f"correlation, {noise}: {values}\n")
    sys.stderr.write(f"{outcome.parameters:,} parameters, {outcome.seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
