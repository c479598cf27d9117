"""Which samples are taken where there are very many: drawn at random by a seed, before any of them is made ready."""

from __future__ import annotations

import numpy as np

SEED = 0


def draw_rows(samples: int, most: int | None) -> list[int]:
    """The rows that are taken, in order: all of them, or `most`, each as likely as another."""
    if most is None or samples <= most:
        return list(range(samples))
    drawn = np.random.default_rng(SEED).choice(samples, most, replace=False)
    return [int(row) for row in np.sort(drawn)]


def told_draw(samples: int, most: int | None) -> tuple[str, ...]:
    """A sentence on what was left out, if anything was."""
    if most is None or samples <= most:
        return ()
    return (f"{most:,} of {samples:,} samples were drawn at random by seed {SEED}: take more by --most N",)
