"""Train the essay scorer on generated essays, and write its weights, validation data and calibration set.

Run it from anywhere: ``python examples/essay_scorer/train.py``. It writes nothing when the held-out essays are not
scored well enough. Exit codes: 0 done, 2 bad option, 3 the scores agree too little with the levels.
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

    from examples.essay_scorer import essays, model, shards
else:

    def _load_sibling(name: str) -> ModuleType:
        """Import a module of this folder under a name of its own, wherever this script was started or loaded from."""
        qualified = f"essay_scorer_{name}"
        if qualified not in sys.modules:
            spec = importlib.util.spec_from_file_location(qualified, HERE / f"{name}.py")
            sys.modules[qualified] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[qualified])
        return sys.modules[qualified]

    essays, model, shards = (_load_sibling(name) for name in ("essays", "model", "shards"))

RATER_SPREAD = 0.06
"""Standard deviation of the rater's error in a training target, on the scale from 0 to 1."""
WARM_UP = 0.06
"""Share of the steps over which the learning rate rises."""
SOURCE = (
    "Made by the seeded generator examples/essay_scorer/essays.py with a seed of its own; "
    "no text of a person, disjoint from the training and validation essays."
)


class PoorAgreementError(Exception):
    """The trained model agrees with the held-out levels less than asked for."""


@dataclass(frozen=True)
class Options:
    """What to train, on how much, and where to put it. ``minimum_qwk`` is the agreement below which nothing ships."""

    out: Path = HERE
    calibration_out: Path = HERE.parents[1] / "calibration_sets" / "essays"
    seed: int = 20261102
    essays: int = 4800
    validation_essays: int = 2400
    calibration_essays: int = 256
    epochs: int = 5
    batch: int = 32
    learning_rate: float = 6e-4
    layers: int = 4
    threads: int = 2
    minimum_qwk: float = 0.80


@dataclass(frozen=True)
class Outcome:
    """What training reached on the held-out essays: agreement, correlation by trait, and the time in seconds."""

    qwk: float
    trait_correlation: dict[str, float]
    parameters: int
    seconds: float


@dataclass(frozen=True)
class Corpus:
    """Essays with their token ids, in the same order."""

    essays: Sequence[essays.Essay]
    samples: Sequence[shards.Sample]


def quadratic_weighted_kappa(first: NDArray[np.int64], second: NDArray[np.int64], levels: int = 6) -> float:
    """Return Cohen's kappa with quadratic weights of two ratings [n] in 1 to ``levels`` (Cohen 1968); 1 is agreement.

    >>> quadratic_weighted_kappa(np.array([1, 2, 3]), np.array([1, 2, 3]))
    1.0
    """
    observed = np.zeros((levels, levels))
    np.add.at(observed, (first - 1, second - 1), 1.0)
    grid = np.arange(levels)
    weights = (grid[:, None] - grid[None, :]) ** 2
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / observed.sum()
    return float(1 - (weights * observed).sum() / (weights * expected).sum())


def levels_of(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the levels 1 to 6, int64 [n], of scores in [0, 1]."""
    return np.rint(1 + 5 * scores).astype(np.int64)


def write_corpora(options: Options) -> tuple[Corpus, Corpus, Corpus]:
    """Return the essays to train on, to validate with and to calibrate with: three seeds, no text in two of them."""
    tokenizer = essays.Tokenizer()
    taken: set[str] = set()
    corpora = []
    for offset, count in ((1, options.validation_essays), (2, options.calibration_essays), (0, options.essays)):
        written = essays.write_essays(options.seed + offset, count, taken)
        samples = [shards.Sample(tuple(tokenizer.encode(essay.text)), essay.level) for essay in written]
        corpora.append(Corpus(written, samples))
    validation, calibration, training = corpora
    return training, validation, calibration


def rated_targets(corpus: Corpus, rng: np.random.Generator) -> Tensor:
    """Return score and traits as a rater with some error gives them, float32 [n, 4] in [0, 1]."""
    exact = np.array([(essay.score, *essay.traits) for essay in corpus.essays])
    noisy = np.clip(exact + rng.normal(0.0, RATER_SPREAD, size=exact.shape), 0.0, 1.0)
    return torch.from_numpy(noisy.astype(np.float32))


def draw_batches(lengths: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of batches of about equal lengths, in random order: little padding, little order."""
    order = np.argsort(lengths + rng.uniform(0, 16, size=len(lengths)), kind="stable")
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    for i in rng.permutation(len(chunks)):
        yield chunks[i]


def as_tensors(samples: Sequence[shards.Sample]) -> tuple[Tensor, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` as long as the longest of the samples."""
    ids, mask = shards.pad(samples, max(len(sample.ids) for sample in samples), essays.PAD_ID)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def fit(network: model.EssayScorer, corpus: Corpus, options: Options) -> None:
    """Train in place: AdamW, a learning rate that warms up and falls to zero, cross-entropy on soft targets."""
    rng = np.random.default_rng([options.seed, 1])
    lengths = np.array([len(sample.ids) for sample in corpus.samples])
    steps = options.epochs * -(-len(lengths) // options.batch)
    optimizer = torch.optim.AdamW(network.parameters(), options.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM_UP * steps + 1), 1 - step / (steps + 1))
    )
    loss_of = nn.BCEWithLogitsLoss()
    targets = rated_targets(corpus, rng)
    network.train()
    for epoch in range(options.epochs):
        total = 0.0
        for batch in draw_batches(lengths, options.batch, rng):
            logits = network.logits(*as_tensors([corpus.samples[i] for i in batch]))
            loss = loss_of(logits, targets[torch.from_numpy(batch)])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        sys.stderr.write(f"epoch {epoch + 1}/{options.epochs}: loss {total / len(lengths):.4f}\n")
    network.eval()


def predict(network: nn.Module, samples: Sequence[shards.Sample], batch: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ``score`` float32 [n] and ``traits`` float32 [n, 3] in the order of the samples."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].ids))
    scores = np.empty(len(samples), dtype=np.float32)
    traits = np.empty((len(samples), len(model.TRAITS)), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chunk = order[start : start + batch]
            score, trait = network(*as_tensors([samples[i] for i in chunk]))
            scores[chunk], traits[chunk] = score.numpy(), trait.numpy()
    return scores, traits


def train(options: Options, training: Corpus, validation: Corpus) -> tuple[model.EssayScorer, Outcome]:
    """Train a network and measure it on held-out essays. The same options give the same weights on one machine."""
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            network = model.EssayScorer(model.ScorerConfig(layers=options.layers))
            fit(network, training, options)
        scores, traits = predict(network, validation.samples, options.batch)
    finally:
        torch.set_num_threads(threads)
    truth = np.array([essay.traits for essay in validation.essays])
    levels = np.array([essay.level for essay in validation.essays])
    correlation = {name: float(np.corrcoef(traits[:, i], truth[:, i])[0, 1]) for i, name in enumerate(model.TRAITS)}
    parameters = sum(parameter.numel() for parameter in network.parameters())
    qwk = quadratic_weighted_kappa(levels, levels_of(scores))
    return network, Outcome(qwk, correlation, parameters, time.perf_counter() - started)


def report(options: Options, outcome: Outcome) -> bytes:
    """Return ``training.json``, UTF-8: what was trained with what, and how well. Nothing of the host or the hour."""
    content = {
        "seed": options.seed,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+", maxsplit=1)[0],
            "numpy": np.__version__,
            "safetensors": safetensors.__version__,
        },
        "essays": {
            "training": options.essays,
            "validation": options.validation_essays,
            "calibration": options.calibration_essays,
        },
        "epochs": options.epochs,
        "batch": options.batch,
        "learning_rate": options.learning_rate,
        "layers": options.layers,
        "parameters": outcome.parameters,
        "qwk": round(outcome.qwk, 4),
        "trait_correlation": {name: round(value, 4) for name, value in outcome.trait_correlation.items()},
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def run(options: Options) -> Outcome:
    """Make the essays, train, measure and write everything.

    Raises:
        PoorAgreementError: quadratic weighted kappa on the held-out essays is below ``minimum_qwk``; nothing is
            written then.
    """
    training, validation, calibration = write_corpora(options)
    network, outcome = train(options, training, validation)
    if not outcome.qwk >= options.minimum_qwk:  # written so that NaN fails, too
        message = (
            f"held-out QWK {outcome.qwk:.4f} is below {options.minimum_qwk}, nothing was written; "
            "train on more --essays or --epochs, or lower --minimum-qwk"
        )
        raise PoorAgreementError(message)
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    calibration_files = shards.make_shards(calibration.samples, essays.PAD_ID, with_label=False)
    manifest = shards.make_manifest(calibration_files, calibration.samples, SOURCE)
    shards.place(shards.make_shards(validation.samples, essays.PAD_ID, with_label=True), options.out / "validation")
    shards.place({**calibration_files, "manifest.yaml": manifest}, options.calibration_out)
    shards.place({"weights.safetensors": weights, "training.json": report(options, outcome)}, options.out)
    return outcome


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Read the command line; it exits with 2 when an option is unknown or unusable."""
    default = Options()
    parser = argparse.ArgumentParser(
        description="Train the essay scorer; write weights, validation data and calibration set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=default.out, help="folder for weights and validation data")
    parser.add_argument("--calibration-out", type=Path, default=default.calibration_out, help="folder for that set")
    parser.add_argument("--seed", type=_natural, default=default.seed, help="seed of essays and training, 0 or more")
    for name, text in (
        ("essays", "essays to train on"),
        ("validation_essays", "held-out essays"),
        ("calibration_essays", "essays in the calibration set"),
        ("epochs", "passes over the training essays"),
        ("batch", "essays a step"),
        ("layers", "encoder layers; build() expects the default"),
        ("threads", "processor threads; another number rounds differently, so the weights differ slightly"),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive, default=getattr(default, name), help=text)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate, help="highest learning rate")
    parser.add_argument("--minimum-qwk", type=float, default=default.minimum_qwk, help="below it, nothing is written")
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
    traits = ", ".join(f"{name} {value:.3f}" for name, value in outcome.trait_correlation.items())
    sys.stderr.write(f"QWK {outcome.qwk:.4f}; correlation of {traits}; {outcome.seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
