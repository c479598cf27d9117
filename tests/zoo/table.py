"""The zoo: a row a model, with its data, and the verdicts that are right for its FP16 and INT8 engines on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.zoo.planted import (
    PIXELS,
    blends,
    cycles,
    files,
    images,
    maps,
    mixtures,
    points,
    repeated,
    sounds,
    symbols,
    tagged_words,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.random import Generator

    from tests.zoo.planted import Arrays, Planter

SAMPLES, PLANTED_SAMPLES = 400, 1600
BATCH = {"min": 1, "opt": 4, "max": 8}
PASS, FAIL = "pass", "fail"
NOTHING = "no matrix product or convolution of 16 channels with constant weights: nothing to quantize, which is said"


@dataclass(frozen=True)
class Animal:
    """One model of the zoo.

    `data` makes the inputs of n samples, and `label` where it is planted; `head` is the layer that is fitted to that, a
    class at `scale` (see `fitted`). `source` is the form that it comes in where that is no callable (see `sources`).
    `fp16` and `int8` are the verdicts that are right, and `why` says why one is
    not a pass. Other keys are those of model.yaml.
    """

    build: str
    inputs: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    data: Callable[[Generator, int], Arrays]
    dims: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    head: str | None = None
    scale: float = 6.0
    source: str = ""
    fp16: tuple[str, ...] = (PASS,)
    int8: tuple[str, ...] = (PASS,)
    why: str = ""

    @property
    def name(self) -> str:
        """As model.yaml has it."""
        return "-".join(filter(None, [self.build.replace("_", "-"), self.source]))


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


DENSE: Mapping[str, Any] = {
    "int8": (FAIL,),
    "why": "1,600 points of three coordinates lie so densely that INT8's error of a degree reorders the ten nearest",
}
LOGITS = {"kind": "logits"}


def _as_image(make: Planter) -> Planter:
    """Where the module calls its pixels so."""
    return lambda generator, n: {"image" if name == PIXELS else name: a for name, a in make(generator, n).items()}


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


def _of_text(build: str, data: Planter, output: Mapping[str, Any], name: str = "logits", **more: Any) -> Animal:
    return Animal(build, WORDS, {name: output}, data, SEQUENCE, **more)


def _of_image(build: str, size: int, data: Planter, output: Mapping[str, Any] = LOGITS, **more: Any) -> Animal:
    inputs = {PIXELS: {"dtype": "float32", "shape": ["batch", 3, size, size]}}
    return Animal(build, inputs, {more.pop("name", "logits"): output}, data, **more)


SIGNAL = {"signal": {"dtype": "float32", "shape": ["batch", 3, "time"]}}
RECURRENT = {
    "frames": {"dtype": "float32", "shape": ["batch", "time", 12]},
    "lengths": {"dtype": "int64", "shape": ["batch"], "range": [1, "time"]},
}
TIME = {"time": {"min": 4, "opt": 24, "max": 40}}

_BERT = _of_text("bert", texts(4), LOGITS, head="classifier")
_VIT = _of_image("vit", 32, images(3, 32, 6), head="classifier")
_SIGNAL = Animal(
    "signal",
    SIGNAL,
    {"score": {"kind": "score", "range": [0, 1]}},
    _floats(signal=(3, 64)),
    {"time": {"min": 16, "opt": 64, "max": 200}},
)
_NORMALIZED = Animal(
    "normalized",
    {"image": {"dtype": "float32", "shape": ["batch", 3, 16, 16]}},
    {"logits": LOGITS},
    _as_image(images(3, 16, 4)),
    export={"opset": 17},
    head="head",
    scale=0.75,
)
_LAYERS = Animal(
    "layers",
    {"input": {"dtype": "float32", "shape": ["batch", 16]}},
    {"logits": LOGITS},
    points("input", 16, 5),
    head="2",
)
_MAGIKA = Animal(
    "",
    {"bytes": {"dtype": "int32", "shape": ["batch", 2048], "range": [0, 256]}},
    {"target_label": {"kind": "probabilities"}},
    files,
    source="magika",
)

BRED = (
    _BERT,
    _of_text("roberta", texts(2, least=0.2), LOGITS, head="classifier.out_proj"),
    _of_text("albert", texts(4), LOGITS, head="classifier"),
    _of_text("electra", texts(4), LOGITS, head="classifier.out_proj"),
    _of_text("mpnet", blends(64), {"kind": "embedding"}, "pooler_output", head="pooler.dense", **DENSE),
    _of_text(
        "distilbert_tokens",
        tagged_words(5),
        {"kind": "logits", "axis": -1, "mask": "attention_mask"},
        head="classifier",
    ),
    _of_text("t5_encoder", _words, {"kind": "embedding", "mask": "attention_mask"}, "last_hidden_state"),
    _of_text("gpt2", cycles, {"kind": "language", "mask": "attention_mask"}, head="lm_head"),
    _of_text("llama", cycles, {"kind": "language", "mask": "attention_mask"}, head="lm_head"),
    _VIT,
    _of_image("swin", 32, images(3, 32, 6), head="classifier"),
    _of_image("convnext", 64, images(3, 64, 6), head="classifier"),
    _of_image(
        "resnet50",
        64,
        images(3, 64, 6),
        head="classifier.1",
        int8=(FAIL,),
        why="right on its own images, but not on white noise, whose small features its fitted head weighs as heavily",
    ),
    _of_image("segformer", 64, maps(3, 64, 5, 16), {"kind": "segmentation", "axis": 1}, head="decode_head.classifier"),
    _of_image(
        "clip_vision",
        32,
        mixtures(3, 32, 32),
        {"kind": "embedding"},
        name="image_embeds",
        head="visual_projection",
        **DENSE,
    ),
    Animal(
        "yolos",
        {"pixel_values": {"dtype": "float32", "shape": ["batch", 3, 64, 64]}},
        {"logits": {"kind": "logits", "axis": -1}, "pred_boxes": {"kind": "tensor"}},
        repeated(images(3, 64, 2), 10),
        head="class_labels_classifier.layers.2",
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
        symbols(2000, 24, 4),
        {"samples": {"min": 1000, "opt": 2000, "max": 3000}},
        head="lm_head",
    ),
    Animal(
        "unet",
        {"image": {"dtype": "float32", "shape": ["batch", 1, "height", "width"]}},
        {"logits": {"kind": "segmentation", "axis": 1}},
        _as_image(images(1, 32, 3)),
        {side: {"min": 16, "opt": 32, "max": 48, "multiple_of": 8} for side in ("height", "width")},
    ),
    Animal("lstm", RECURRENT, {"logits": LOGITS}, _frames, TIME, int8=(FAIL,), why=NOTHING),
    Animal("gru", RECURRENT, {"logits": LOGITS}, _frames, TIME, int8=(FAIL,), why=NOTHING),
    _SIGNAL,
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
        sounds(2048, 4),
        export={"opset": 17},
        head="head",
        scale=0.75,
        int8=(FAIL,),
        why="INT8 moves all its confidences by more than they differ between samples, which ks tells",
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
        int8=(FAIL,),
        why="values that are all near 600 leave INT8 few of its steps, and its error is one for all: a bias",
    ),
    _NORMALIZED,
)
"""Built by their own code, `models.py`."""

CAUGHT = (
    replace(_BERT, source="checkpoint"),
    replace(_VIT, source="shards"),
    replace(_NORMALIZED, source="onnx", export={}),
    replace(_SIGNAL, source="pt2"),
    replace(_LAYERS, source="torchscript"),
    replace(_LAYERS, source="mlflow"),
    replace(_NORMALIZED, source="package"),
    _MAGIKA,
)
"""Found where models are: in files of other tools, and in a package."""

ZOO = (*BRED, *CAUGHT)


@dataclass(frozen=True)
class Example:
    """A trained model, `folder` of examples/; its verdicts are those that its README reports."""

    folder: str
    fp16: tuple[str, ...] = (PASS,)
    int8: tuple[str, ...] = (PASS,)
    why: str = ""

    @property
    def name(self) -> str:
        """As it is called here, where another one may be of the same class."""
        return f"{self.folder.replace('_', '-')}-example"


TRAINED = tuple(map(Example, ("essay_scorer", "intents", "line_reader", "detector", "whisper_encoder", "digit_reader")))
