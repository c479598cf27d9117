"""Train the classifier of alarm sounds: ``python -m examples.alarm_sounds.train`` from the root of the checkout."""

from __future__ import annotations

import sys

from examples import making
from examples.alarm_sounds import model, sounds

EXAMPLE = making.Example(
    name="alarm_sounds",
    calibration="sounds",
    source=(
        "Energies of computed sounds by the seeded generator examples/alarm_sounds/sounds.py; disjoint from the"
        " training and validation recordings."
    ),
    inputs=("energies",),
    draw=sounds.draw,
    build=model.build,
    loss=making.label_loss("energies"),
    quality=making.label_accuracy("energies"),
    minimum=0.95,
    sizes=(900, 144, 4000),
    steps=800,
)

if __name__ == "__main__":
    sys.exit(making.main(EXAMPLE))
