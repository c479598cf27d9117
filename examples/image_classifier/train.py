"""Train the image classifier: ``python -m examples.image_classifier.train`` from the root of the checkout."""

from __future__ import annotations

import sys

from examples import making
from examples.image_classifier import model, signs

EXAMPLE = making.Example(
    name="image_classifier",
    calibration="signs",
    source=(
        "Pictures of road signs by the seeded generator examples/image_classifier/signs.py; disjoint from the"
        " training and validation pictures."
    ),
    inputs=("image",),
    draw=signs.draw,
    build=model.build,
    loss=making.label_loss("image"),
    quality=making.label_accuracy("image"),
    minimum=0.95,
    sizes=(900, 144, 6000),
    steps=1200,
    batch=32,
    learning_rate=3e-3,
)

if __name__ == "__main__":
    sys.exit(making.main(EXAMPLE))
