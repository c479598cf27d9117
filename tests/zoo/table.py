"""The zoo: a row a model, with its data, and the verdicts that are right for its FP16 and INT8 engines on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.random import Generator

Arrays = dict[str, np.ndarray]
SAMPLES = 400
BATCH = {"min": 1, "opt": 4, "max": 8}
PASS, FAIL, OPEN = "pass", "fail", "inconclusive"
NOTHING = "no matrix product or convolution of 16 channels with constant weights: nothing to quantize, which is said"
NO_MARGIN = "random weights leave no margin between classes, so INT8 changes more than 2 % of them"


@dataclass(frozen=True)
class Animal:
    """One model of the zoo.

    `data` makes the inputs of n samples. `fp16` and `int8` are the verdicts that are right, and `why` says why one is
    not a pass. Other keys are those of model.yaml.
    """

    build: str
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    data: Callable[[Generator, int], Arrays]
    dims: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    fp16: tuple[str, ...] = (PASS,)
    int8: tuple[str, ...] = (PASS,)
    why: str = ""

    @property
    def name(self) -> str:
        """As model.yaml has it."""
        return self.build.replace("_", "-")


SEQUENCE = {"sequence": {"min": 8, "opt": 32, "max": 48}}
WORDS = {
    "input_ids": {"dtype": "int64", "shape": ["batch", "sequence"]},
    "attention_mask": {"dtype": "int64", "shape": ["batch", "sequence"]},
}


def _words(generator: Generator, n: int) -> Arrays:
    """Ids and the mask of texts of 8 to 32 tokens, padded to 32."""
    lengths = generator.integers(8, 33, n)
    mask = (np.arange(32)[None] < lengths[:, None]).astype(np.int64)
    ids = generator.integers(5, 1000, (n, 32))
    return {"input_ids": np.where(mask == 1, ids, 1), "attention_mask": mask}


def _image(channels: int, size: int) -> Callable[[Generator, int], Arrays]:
    """Coarse patterns, as pictures have, with noise."""

    def make(generator: Generator, n: int) -> Arrays:
        coarse = generator.standard_normal((n, channels, 4, 4)).repeat(size // 4, 2).repeat(size // 4, 3)
        return {"pixel_values": (coarse + 0.2 * generator.standard_normal(coarse.shape)).astype(np.float32)}

    return make


def _named(name: str, make: Callable[[Generator, int], Arrays]) -> Callable[[Generator, int], Arrays]:
    return lambda generator, n: {name: next(iter(make(generator, n).values()))}


def _floats(**shapes: tuple[int, ...]) -> Callable[[Generator, int], Arrays]:
    return lambda generator, n: {
        name: generator.standard_normal((n, *shape)).astype(np.float32) for name, shape in shapes.items()
    }


def _frames(generator: Generator, n: int) -> Arrays:
    frames = generator.standard_normal((n, 24, 12)).astype(np.float32)
    return {"frames": frames, "lengths": generator.integers(4, 25, n)}


def _pixels(generator: Generator, n: int) -> Arrays:
    return {"image": generator.integers(0, 256, (n, 8, 8)).astype(np.float32)}


def _near_600(generator: Generator, n: int) -> Arrays:
    return {"x": (600 + 40 * generator.standard_normal((n, 32))).astype(np.float32)}


def _of_text(build: str, output: Mapping[str, Any], name: str = "logits", **more: Any) -> Animal:
    return Animal(build, WORDS, {name: output}, _words, SEQUENCE, **more)


def _of_image(build: str, size: int, output: Mapping[str, Any], name: str = "logits", **more: Any) -> Animal:
    inputs = {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, size, size]}}
    return Animal(build, inputs, {name: output}, _image(3, size), **more)


LOGITS = {"kind": "logits"}
UNSURE: Mapping[str, Any] = {"int8": (PASS, FAIL, OPEN), "why": NO_MARGIN}
SIGNAL = {"signal": {"dtype": "float32", "shape": ["batch", 3, "time"]}}
RECURRENT = {
    "frames": {"dtype": "float32", "shape": ["batch", "time", 12]},
    "lengths": {"dtype": "int64", "shape": ["batch"], "range": [1, "time"]},
}
TIME = {"time": {"min": 4, "opt": 24, "max": 40}}

ZOO = (
    _of_text("bert", LOGITS, **UNSURE),
    _of_text("roberta", LOGITS),
    _of_text("albert", LOGITS, **UNSURE),
    _of_text("electra", LOGITS, **UNSURE),
    _of_text("mpnet", {"kind": "embedding"}, "pooler_output", **UNSURE),
    _of_text("distilbert_tokens", {"kind": "logits", "axis": -1, "mask": "attention_mask"}, **UNSURE),
    _of_text("t5_encoder", {"kind": "embedding", "mask": "attention_mask"}, "last_hidden_state"),
    _of_text("gpt2", {"kind": "language", "mask": "attention_mask"}, **UNSURE),
    _of_text("llama", {"kind": "language", "mask": "attention_mask"}, **UNSURE),
    _of_image("vit", 32, LOGITS, **UNSURE),
    _of_image("swin", 32, LOGITS, **UNSURE),
    _of_image("convnext", 64, LOGITS, **UNSURE),
    _of_image("resnet50", 64, LOGITS, **UNSURE),
    _of_image("segformer", 64, {"kind": "segmentation", "axis": 1}, **UNSURE),
    _of_image("clip_vision", 32, {"kind": "embedding"}, "image_embeds", **UNSURE),
    Animal(
        "yolos",
        {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, 64, 64]}},
        {"logits": {"kind": "logits", "axis": -1}, "pred_boxes": {"kind": "tensor"}},
        _image(3, 64),
        **UNSURE,
    ),
    Animal(
        "whisper_encoder",
        {"input_features": {"dtype": "float32", "shape": ["batch", 80, 100]}},
        {"last_hidden_state": {"kind": "embedding"}},
        _floats(input_features=(80, 100)),
    ),
    Animal(
        "wav2vec2_ctc",
        {"input_values": {"dtype": "float32", "shape": ["batch", "samples"]}},
        {"logits": {"kind": "ctc"}},
        _floats(input_values=(2000,)),
        {"samples": {"min": 1000, "opt": 2000, "max": 3000}},
        **UNSURE,
    ),
    Animal(
        "unet",
        {"image": {"dtype": "float32", "shape": ["batch", 1, "height", "width"]}},
        {"logits": {"kind": "segmentation", "axis": 1}},
        _named("image", _image(1, 32)),
        {side: {"min": 16, "opt": 32, "max": 48, "multiple_of": 8} for side in ("height", "width")},
    ),
    Animal("lstm", RECURRENT, {"logits": LOGITS}, _frames, TIME, int8=(FAIL,), why=NOTHING),
    Animal("gru", RECURRENT, {"logits": LOGITS}, _frames, TIME, int8=(FAIL,), why=NOTHING),
    Animal(
        "signal",
        SIGNAL,
        {"score": {"kind": "score", "range": [0, 1]}},
        _floats(signal=(3, 64)),
        {"time": {"min": 16, "opt": 64, "max": 200}},
    ),
    Animal(
        "pair",
        {
            "answer": {"dtype": "float32", "shape": ["batch", 16]},
            "question": {"dtype": "float32", "shape": ["batch", 8]},
        },
        {"score": {"kind": "score", "range": [0, 1]}, "classes": LOGITS, "embedding": {"kind": "embedding"}},
        _floats(answer=(16,), question=(8,)),
    ),
    Animal(
        "log_mel",
        {"sound": {"dtype": "float32", "shape": ["batch", 2048]}},
        {"logits": LOGITS},
        _floats(sound=(2048,)),
        export={"opset": 17},
        fp16=(PASS, OPEN),
        int8=(PASS, FAIL, OPEN),
        why="its confidences lie so close together that rounding reorders them, which ks tells",
    ),
    Animal("in_place", {"image": {"dtype": "float32", "shape": ["batch", 8, 8]}}, {"logits": LOGITS}, _pixels),
    Animal("extra", {"x": {"dtype": "float32", "shape": ["batch", 16]}}, {"logits": LOGITS}, _floats(x=(16,))),
    Animal(
        "names",
        {"ids": {"dtype": "int64", "shape": ["batch", 12]}},
        {"embedding": {"kind": "embedding"}, "softmax": {"kind": "probabilities"}},
        lambda generator, n: {"ids": generator.integers(0, 50, (n, 12))},
    ),
    Animal(
        "classes",
        {"features": {"dtype": "float32", "shape": ["batch", 32]}},
        {"level": {"kind": "labels"}, "sure": {"kind": "labels"}},
        _floats(features=(32,)),
    ),
    Animal(
        "root",
        {"x": {"dtype": "float32", "shape": ["batch", 32]}},
        {"score": {"kind": "score", "range": [0, 1]}},
        _near_600,
        int8=(PASS, FAIL, OPEN),
        why="values that are all near 600 leave INT8 few of its steps",
    ),
    Animal(
        "normalized",
        {"image": {"dtype": "float32", "shape": ["batch", 3, 16, 16]}},
        {"logits": LOGITS},
        _named("image", _image(3, 16)),
        export={"opset": 17},
    ),
)
