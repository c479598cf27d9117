"""Train the digit reader on handwritten and printed digits; write its weights, validation data and calibration sets.

Run it from anywhere: ``python examples/digit_reader/train.py``. It writes nothing when too few held-out digits are
read right. Exit codes: 0 done, 2 bad option, 3 the accuracy is too low.
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

import matplotlib as mpl
import numpy as np
import PIL
import safetensors
import safetensors.torch
import sklearn
import torch
from torch import nn

HERE = Path(__file__).resolve().parent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from examples.digit_reader import digits, model, shards
else:

    def _load_sibling(name: str) -> ModuleType:
        """Import a module of this folder under a name of its own, wherever this script was started or loaded from."""
        qualified = f"digit_reader_{name}"
        if qualified not in sys.modules:
            spec = importlib.util.spec_from_file_location(qualified, HERE / f"{name}.py")
            sys.modules[qualified] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[qualified])
        return sys.modules[qualified]

    digits, model, shards = (_load_sibling(name) for name in ("digits", "model", "shards"))

WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""
BOTH, PRINTED_ONLY = "digits", "digits_printed_only"
"""Names of the calibration sets, which are of the same size."""
SOURCES = {
    BOTH: (
        "Handwriting of scikit-learn's load_digits (UCI Optical Recognition of Handwritten Digits) and digits set in "
        "matplotlib's fonts, photographed by the seeded generator examples/digit_reader/digits.py; disjoint from the "
        "training and validation pictures."
    ),
    PRINTED_ONLY: (
        "Digits set in matplotlib's fonts, photographed by the seeded generator examples/digit_reader/digits.py; "
        "disjoint from the training and validation pictures. No handwriting: it shows what such a set does."
    ),
}


class PoorAccuracyError(Exception):
    """The trained model reads fewer held-out digits right than asked for."""


@dataclass(frozen=True)
class Options:
    """What to train, on how much, and where to put it. ``minimum_accuracy`` is that below which nothing ships.

    Counts are of one script. ``times`` is how often each handwritten digit is photographed for training.
    """

    out: Path = HERE
    calibration_out: Path = HERE.parents[1] / "calibration_sets"
    seed: int = 20261121
    printed: int = 12000
    times: int = 10
    validation: int = 450
    calibration: int = 128
    epochs: int = 6
    batch: int = 64
    learning_rate: float = 3e-3
    threads: int = 1
    minimum_accuracy: float = 0.97


@dataclass(frozen=True)
class Corpora:
    """Pictures of both scripts, no handwritten digit in two of them; ``printed_only`` as large as ``calibration``."""

    training: list[digits.Digit]
    validation: list[digits.Digit]
    calibration: list[digits.Digit]
    printed_only: list[digits.Digit]


@dataclass(frozen=True)
class Outcome:
    """What training reached on the held-out pictures, by script, and the time in seconds."""

    accuracy: dict[str, float]
    parameters: int
    seconds: float

    @property
    def worst(self) -> float:
        """The accuracy on the script that is read worst."""
        return min(self.accuracy.values())


def make_corpora(options: Options) -> Corpora:
    """Make all pictures. The same options give the same pictures.

    Raises:
        ValueError: validation and calibration leave no handwritten digit to train on.
    """
    validation, calibration, training = digits.share_out([options.seed, 0], [options.validation, options.calibration])
    # The shared part comes first, so that the sets differ only in what takes the place of the handwriting.
    printed = digits.print_digits([options.seed, 3], options.calibration)
    more = digits.print_digits([options.seed, 4], options.calibration)
    return Corpora(
        training=digits.print_digits([options.seed, 1], options.printed)
        + training.photographed([options.seed, 5], options.times),
        validation=digits.print_digits([options.seed, 2], options.validation)
        + validation.photographed([options.seed, 6]),
        calibration=printed + calibration.photographed([options.seed, 7]),
        printed_only=printed + more,
    )


def as_samples(pictures: Sequence[digits.Digit]) -> list[shards.Sample]:
    """Return what a data file keeps of pictures."""
    return [shards.Sample(picture.image, picture.label, picture.script) for picture in pictures]


def fit(network: nn.Module, pictures: Sequence[digits.Digit], options: Options) -> None:
    """Train in place: AdamW, a learning rate that warms up and falls to zero, cross-entropy."""
    images = torch.from_numpy(shards.stack(as_samples(pictures)))
    labels = torch.tensor([picture.label for picture in pictures])
    batches = len(pictures) // options.batch or 1
    steps = options.epochs * batches
    optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM_UP * steps + 1), 1 - step / (steps + 1))
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()
    for epoch in range(options.epochs):
        total = 0.0
        order = torch.randperm(len(pictures))
        for number in range(batches):
            # A last batch that is not full is left out: batch norm would take its few pictures for all.
            chosen = order[number * options.batch : (number + 1) * options.batch]
            loss = loss_of(network(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        sys.stderr.write(f"epoch {epoch + 1}/{options.epochs}: loss {total / batches:.4f}\n")
    network.eval()


def predict(network: nn.Module, pictures: Sequence[digits.Digit], batch: int) -> NDArray[np.float32]:
    """Return the logits of pictures, float32 [n, 10]."""
    images = torch.from_numpy(shards.stack(as_samples(pictures)))
    with torch.inference_mode():
        return torch.cat([network(part) for part in images.split(batch)]).numpy()


def accuracy_by_script(logits: NDArray[np.float32], pictures: Sequence[digits.Digit]) -> dict[str, float]:
    """Return the share of pictures of each script whose largest logit is that of their class."""
    right = logits.argmax(axis=1) == np.array([picture.label for picture in pictures])
    scripts = np.array([picture.script for picture in pictures])
    return {script: float(right[scripts == script].mean()) for script in digits.SCRIPTS}


def train(
    options: Options, training: Sequence[digits.Digit], validation: Sequence[digits.Digit]
) -> tuple[nn.Module, Outcome]:
    """Train a network and measure it on held-out pictures. The same options give the same weights on one machine."""
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = model.build()
            fit(network, training, options)
        accuracy = accuracy_by_script(predict(network, validation, options.batch), validation)
    finally:
        torch.set_num_threads(threads)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return network, Outcome(accuracy, parameters, time.perf_counter() - started)


def report(options: Options, outcome: Outcome, corpora: Corpora) -> bytes:
    """Return ``training.json``, UTF-8: what was trained with what, and how well. Nothing of the host or the hour."""
    content: dict[str, Any] = {
        "seed": options.seed,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+", maxsplit=1)[0],
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "matplotlib": mpl.__version__,
            "pillow": PIL.__version__,
            "safetensors": safetensors.__version__,
        },
        "pictures": {
            "training": len(corpora.training),
            "validation": len(corpora.validation),
            "calibration": len(corpora.calibration),
        },
        "epochs": options.epochs,
        "batch": options.batch,
        "learning_rate": options.learning_rate,
        "parameters": outcome.parameters,
        "accuracy": {script: round(value, 4) for script, value in outcome.accuracy.items()},
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def place_calibration_set(name: str, pictures: Sequence[digits.Digit], folder: Path) -> None:
    """Write the calibration set ``name`` into a folder of that name below ``folder``."""
    samples = as_samples(pictures)
    files = shards.make_shards(samples, with_label=False)
    manifest = shards.make_manifest(name, files, samples, SOURCES[name])
    shards.place({**files, "manifest.yaml": manifest}, folder / name)


def run(options: Options) -> Outcome:
    """Make the pictures, train, measure and write everything.

    Raises:
        ValueError: validation and calibration leave no handwritten digit to train on.
        PoorAccuracyError: the accuracy on a script's held-out pictures is below ``minimum_accuracy``; nothing is
            written then.
    """
    corpora = make_corpora(options)
    network, outcome = train(options, corpora.training, corpora.validation)
    if not outcome.worst >= options.minimum_accuracy:  # written so that NaN fails, too
        message = (
            f"the lowest held-out accuracy {outcome.worst:.4f} is below {options.minimum_accuracy}, nothing was "
            "written; train with more --times or --epochs, or lower --minimum-accuracy"
        )
        raise PoorAccuracyError(message)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    shards.place(shards.make_shards(as_samples(corpora.validation), with_label=True), options.out / "validation")
    place_calibration_set(BOTH, corpora.calibration, options.calibration_out)
    place_calibration_set(PRINTED_ONLY, corpora.printed_only, options.calibration_out)
    shards.place({"weights.safetensors": weights, "training.json": report(options, outcome, corpora)}, options.out)
    return outcome


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line; it exits with 2 when an option is unknown or unusable."""
    default = Options()
    parser = argparse.ArgumentParser(
        description="Train the digit reader; write weights, validation data and calibration sets.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=default.out, help="folder for weights and validation data")
    parser.add_argument("--calibration-out", type=Path, default=default.calibration_out, help="folder for both sets")
    parser.add_argument("--seed", type=_natural, default=default.seed, help="seed of pictures and training, 0 or more")
    for name, text in (
        ("printed", "printed digits to train on"),
        ("times", "pictures of each handwritten digit to train on"),
        ("validation", "held-out digits of each script"),
        ("calibration", "digits of each script in the calibration set of both"),
        ("epochs", "passes over the training pictures"),
        ("batch", "pictures a step"),
        ("threads", "processor threads; another number rounds differently, so the weights differ slightly"),
    ):
        parser.add_argument(f"--{name}", type=_positive, default=getattr(default, name), help=text)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="highest learning rate")
    parser.add_argument(
        "--minimum-accuracy", type=float, default=default.minimum_accuracy, help="below it, nothing is written"
    )
    options = Options(**vars(parser.parse_args(arguments)))
    if options.validation + options.calibration >= digits.HANDWRITTEN_DIGITS:
        parser.error(
            f"--validation {options.validation} and --calibration {options.calibration} hold back all "
            f"{digits.HANDWRITTEN_DIGITS:,} handwritten digits; lower one of them"
        )
    return options


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
    except PoorAccuracyError as error:
        sys.stderr.write(f"error: {error}\n")
        return 3
    accuracy = ", ".join(f"{script} {value:.4f}" for script, value in outcome.accuracy.items())
    sys.stderr.write(f"accuracy: {accuracy}; {outcome.parameters:,} parameters, {outcome.seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
