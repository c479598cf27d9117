"""Data with something to learn in it: each sample is marked with its class, some plainly and some hardly.

What a function returns beside the inputs, `label`, is what the head of a model is fitted to: the number of a class for
each sample or position, or numbers. Marks differ in strength, so that confidences differ as those of trained models do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

    Planter = Callable[[Generator, int], dict[str, np.ndarray]]

Arrays = dict[str, np.ndarray]
LABEL, PIXELS = "label", "pixel_values"
LONGEST, PADDING, FIRST_MARK, MARKS, FIRST_WORD, WORDS = 32, 1, 5, 4, 100, 20
CELLS, REGIONS, PATTERNS = 4, 2, 12
NO_CLASS = -1


def _lengths(generator: Generator, n: int) -> np.ndarray:
    """The mask of texts of 8 to 32 tokens."""
    lengths = generator.integers(8, LONGEST + 1, n)
    return (np.arange(LONGEST)[None] < lengths[:, None]).astype(np.int64)


def _padded(ids: np.ndarray, mask: np.ndarray, label: np.ndarray) -> Arrays:
    known = np.where(mask == 1, label, NO_CLASS) if label.shape == mask.shape else label
    return {"input_ids": np.where(mask == 1, ids, PADDING), "attention_mask": mask, LABEL: known}


def texts(classes: int, least: float = 0.5) -> Planter:
    """Texts of which at least so many of the words are their class's own."""

    def make(generator: Generator, n: int) -> Arrays:
        label, share = generator.integers(0, classes, n), generator.uniform(least, 1.0, (n, 1))
        own = FIRST_MARK + MARKS * label[:, None] + generator.integers(0, MARKS, (n, LONGEST))
        common = FIRST_WORD + generator.integers(0, WORDS, (n, LONGEST))
        return _padded(np.where(generator.random((n, LONGEST)) < share, own, common), _lengths(generator, n), label)

    return make


def tagged_words(classes: int) -> Planter:
    """Texts whose every word has a class of its own."""

    def make(generator: Generator, n: int) -> Arrays:
        label = generator.integers(0, classes, (n, LONGEST))
        own = FIRST_MARK + MARKS * label + generator.integers(0, MARKS, (n, LONGEST))
        return _padded(own, _lengths(generator, n), label)

    return make


def cycles(generator: Generator, n: int) -> Arrays:
    """Texts that go round `WORDS` words and jump every other time: which comes next on the round, the last one says."""
    jumps = generator.random((n, LONGEST)) < 0.5
    at = np.where(jumps, generator.integers(0, WORDS, (n, LONGEST)), 1).cumsum(axis=1)
    return _padded(FIRST_WORD + at % WORDS, _lengths(generator, n), FIRST_WORD + (at + 1) % WORDS)


def images(channels: int, size: int, classes: int) -> Planter:
    """Coarse patterns, one a class, among coarse noise."""
    patterns = np.random.default_rng(PATTERNS).standard_normal((classes, channels, CELLS, CELLS))

    def make(generator: Generator, n: int) -> Arrays:
        label, strength = generator.integers(0, classes, n), generator.uniform(0.6, 1.4, (n, 1, 1, 1))
        coarse = strength * patterns[label] + 0.3 * generator.standard_normal((n, *patterns.shape[1:]))
        return {PIXELS: _fine(coarse, size, generator), LABEL: label}

    return make


def maps(channels: int, size: int, classes: int, label_size: int) -> Planter:
    """Images whose every quarter has the colour of its class."""
    colours = 1.5 * np.random.default_rng(PATTERNS).standard_normal((classes, channels))

    def make(generator: Generator, n: int) -> Arrays:
        cells = generator.integers(0, classes, (n, REGIONS, REGIONS))
        coarse = np.moveaxis(colours[cells], -1, 1) + 0.2 * generator.standard_normal((n, channels, REGIONS, REGIONS))
        label = cells.repeat(label_size // REGIONS, 1).repeat(label_size // REGIONS, 2)
        return {PIXELS: _fine(coarse, size, generator), LABEL: label}

    return make


def _fine(coarse: np.ndarray, size: int, generator: Generator) -> np.ndarray:
    wide = coarse.repeat(size // coarse.shape[2], 2).repeat(size // coarse.shape[3], 3)
    return (wide + 0.1 * generator.standard_normal(wide.shape)).astype(np.float32)


def sounds(samples: int, classes: int) -> Planter:
    """Sines, of one frequency a class, some of them ten times as loud as others."""

    def make(generator: Generator, n: int) -> Arrays:
        label, strength = generator.integers(0, classes, n), 10 ** generator.uniform(-0.5, 0.5, (n, 1))
        angles = np.pi * (label[:, None] + 1) / (classes + 1) * np.arange(samples) + generator.uniform(0, 6.3, (n, 1))
        sound = strength * np.sin(angles) + 0.3 * generator.standard_normal((n, samples))
        return {"sound": sound.astype(np.float32), LABEL: label}

    return make


def symbols(samples: int, frames: int, classes: int) -> Planter:
    """Sounds of one sine after another; `label` says of each frame which, 0 being the blank that is never heard."""
    parts = 2

    def make(generator: Generator, n: int) -> Arrays:
        said, strength = generator.integers(0, classes, (n, parts)), generator.uniform(0.7, 1.3, (n, 1))
        heard = said.repeat(samples // parts, 1)
        sound = strength * np.sin(np.pi * (heard + 1) / (classes + 1) * np.arange(samples))
        sound += 0.1 * generator.standard_normal((n, samples))
        middle = ((np.arange(frames) + 0.5) / frames * parts).astype(np.int64)
        return {"input_values": sound.astype(np.float32), LABEL: 1 + said[:, middle]}

    return make


def blends(width: int, kinds: int = 4) -> Planter:
    """Texts on several subjects, more or less on each; `label` is a point of which the shares are coordinates."""
    corners = np.random.default_rng(PATTERNS).uniform(-1, 1, (kinds, width))

    def make(generator: Generator, n: int) -> Arrays:
        shares = generator.dirichlet(np.ones(kinds), n)
        mask = _lengths(generator, n)
        kind = (generator.random((n, LONGEST, 1)) > shares.cumsum(1)[:, None]).sum(2).clip(max=kinds - 1)
        counted = (np.eye(kinds)[kind] * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return _padded(FIRST_MARK + kind, mask, counted @ corners)

    return make


def mixtures(channels: int, size: int, width: int, kinds: int = 4) -> Planter:
    """Images of several patterns, each more or less plain; `label` is a point of which the shares are coordinates."""
    drawn = np.random.default_rng(PATTERNS)
    corners, patterns = drawn.uniform(-1, 1, (kinds, width)), drawn.standard_normal((kinds, channels, CELLS, CELLS))

    def make(generator: Generator, n: int) -> Arrays:
        shares = generator.dirichlet(np.ones(kinds), n)
        coarse = 2 * np.einsum("nk,kcij->ncij", shares, patterns)
        return {PIXELS: _fine(coarse, size, generator), LABEL: shares @ corners}

    return make


def repeated(make: Planter, times: int) -> Planter:
    """The same, with the class of a sample for each of so many positions."""

    def wide(generator: Generator, n: int) -> Arrays:
        found = make(generator, n)
        return {**found, LABEL: found[LABEL][:, None].repeat(times, 1)}

    return wide


def points(name: str, width: int, classes: int) -> Planter:
    """Clouds of numbers, one a class."""
    middles = 2 * np.random.default_rng(PATTERNS).standard_normal((classes, width))

    def make(generator: Generator, n: int) -> Arrays:
        label, strength = generator.integers(0, classes, n), generator.uniform(0.4, 1.2, (n, 1))
        found = strength * middles[label] + generator.standard_normal((n, width))
        return {name: found.astype(np.float32), LABEL: label}

    return make


FILES = (
    '{{"{a}": "{b}", "{c}": [{n}, {m}], "{d}": {{"{e}": true}}}}',
    "def {a}({b}, {c}):\n    {d} = {b}[{n}:{m}]\n    return {d}.{e}({c})\n",
    '<div class="{a}"><p id="{b}{n}">{c} {d}</p><a href="/{e}/{m}">{a}</a></div>',
    "{a},{b},{n},{m},{c}\n{d},{e},{m},{n},{a}\n",
    "SELECT {a}, {b} FROM {c} WHERE {d} = {n} AND {e} < {m};\n",
    ".{a} #{b} {{\n  margin: {n}px;\n  color: #{m};\n}}\n.{c}:hover {{ width: {m}%; }}\n",
    "#include <{a}.h>\nint {b}(struct {c} *{d}) {{\n    return {d}->{e} + {n};\n}}\n",
    "function {a}({b}) {{\n  const {c} = {b}.map(({d}) => {d} * {n});\n  return {c};\n}}\n",
)
ENDS, FILL = 1024, 256


def files(generator: Generator, n: int) -> Arrays:
    """Text files of eight kinds, as Magika is handed them: the bytes of both ends, 256 where there are none."""
    rows = [_both_ends(_text(generator).encode()) for _ in range(n)]
    return {"bytes": np.array(rows, dtype=np.int32)}


def _text(generator: Generator) -> str:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lines, kind = [], FILES[generator.integers(len(FILES))]
    for _ in range(generator.integers(2, 30)):
        words = {key: "".join(generator.choice(letters, generator.integers(2, 9))) for key in "abcde"}
        lines.append(kind.format(**words, n=generator.integers(1000), m=generator.integers(1000)))
    return "\n".join(lines)


def _both_ends(content: bytes) -> list[int]:
    first, last = list(content.lstrip()[:ENDS]), list(content.rstrip()[-ENDS:])
    return [*first, *[FILL] * (ENDS - len(first)), *[FILL] * (ENDS - len(last)), *last]
