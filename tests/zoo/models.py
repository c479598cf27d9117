"""The modules of the zoo: small configurations of what teams bring, with random weights that are the same each time.

Weights are drawn wide, so that outputs depend on their inputs as those of trained models do. Most have their last layer
fitted to their data afterwards; see `fitted`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

SEED, SPREAD = 7, 0.1
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
VOCABULARY = 1000


def transformer(class_name: str, config_name: str, **settings: Any) -> Callable[[], nn.Module]:
    """What builds a model of the library `transformers` from a configuration."""

    def build() -> nn.Module:
        import transformers  # noqa: PLC0415 - takes seconds

        torch.manual_seed(SEED)
        config = getattr(transformers, config_name)(**settings)
        model: nn.Module = getattr(transformers, class_name)(config)
        return model

    return build


def text(class_name: str, config_name: str, **settings: Any) -> Callable[[], nn.Module]:
    """A text encoder of two layers."""
    own = {"vocab_size": VOCABULARY, "max_position_embeddings": 66, "initializer_range": SPREAD}
    return transformer(class_name, config_name, **{**TEXT, **own, **settings})


bert = text("BertForSequenceClassification", "BertConfig", num_labels=4)
roberta = text("RobertaForSequenceClassification", "RobertaConfig", num_labels=2, pad_token_id=1)
albert = text("AlbertForSequenceClassification", "AlbertConfig", num_labels=4, embedding_size=32)
electra = text("ElectraForSequenceClassification", "ElectraConfig", num_labels=4, embedding_size=32)
mpnet = text("MPNetModel", "MPNetConfig")
distilbert_tokens = transformer(
    "DistilBertForTokenClassification",
    "DistilBertConfig",
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
    dim=64,
    n_layers=2,
    n_heads=4,
    hidden_dim=128,
    num_labels=5,
    initializer_range=SPREAD,
)
t5_encoder = transformer(
    "T5EncoderModel",
    "T5Config",
    vocab_size=VOCABULARY,
    d_model=64,
    d_kv=16,
    d_ff=128,
    num_layers=2,
    num_heads=4,
)
gpt2 = transformer(
    "GPT2LMHeadModel",
    "GPT2Config",
    bos_token_id=0,
    eos_token_id=0,
    vocab_size=VOCABULARY,
    n_positions=64,
    n_embd=64,
    n_layer=2,
    n_head=4,
    initializer_range=SPREAD,
    tie_word_embeddings=False,
)
llama = transformer(
    "LlamaForCausalLM",
    "LlamaConfig",
    vocab_size=VOCABULARY,
    max_position_embeddings=64,
    num_key_value_heads=2,
    initializer_range=SPREAD,
    tie_word_embeddings=False,
    **TEXT,
)
vit = transformer(
    "ViTForImageClassification",
    "ViTConfig",
    image_size=32,
    patch_size=8,
    num_labels=6,
    initializer_range=SPREAD,
    **TEXT,
)
swin = transformer(
    "SwinForImageClassification",
    "SwinConfig",
    image_size=32,
    patch_size=2,
    embed_dim=24,
    depths=[2, 2],
    num_heads=[2, 4],
    window_size=4,
    num_labels=6,
    initializer_range=SPREAD,
)
convnext = transformer(
    "ConvNextForImageClassification",
    "ConvNextConfig",
    depths=[1, 1, 2, 1],
    hidden_sizes=[16, 32, 48, 64],
    image_size=64,
    num_labels=6,
    initializer_range=SPREAD,
)
resnet50 = transformer(
    "ResNetForImageClassification",
    "ResNetConfig",
    embedding_size=16,
    hidden_sizes=[32, 64, 128, 256],
    depths=[3, 4, 6, 3],
    layer_type="bottleneck",
    num_labels=6,
)
segformer = transformer(
    "SegformerForSemanticSegmentation",
    "SegformerConfig",
    num_labels=5,
    depths=[1, 1, 1, 1],
    hidden_sizes=[16, 32, 40, 64],
    num_attention_heads=[1, 2, 2, 4],
    decoder_hidden_size=64,
    initializer_range=SPREAD,
)
yolos = transformer(
    "YolosForObjectDetection",
    "YolosConfig",
    image_size=[64, 64],
    patch_size=16,
    num_detection_tokens=10,
    num_labels=8,
    initializer_range=SPREAD,
    **TEXT,
)
clip_vision = transformer(
    "CLIPVisionModelWithProjection",
    "CLIPVisionConfig",
    image_size=32,
    patch_size=8,
    projection_dim=32,
    **TEXT,
)
whisper_settings = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 80,
    "max_source_positions": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
wav2vec2_ctc = transformer(
    "Wav2Vec2ForCTC",
    "Wav2Vec2Config",
    vocab_size=32,
    conv_dim=(32, 32, 32),
    conv_stride=(5, 4, 4),
    conv_kernel=(10, 8, 4),
    num_feat_extract_layers=3,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    apply_spec_augment=False,
    initializer_range=SPREAD,
    **TEXT,
)


def whisper_encoder() -> nn.Module:
    """The half of Whisper that listens."""
    whisper = transformer("WhisperModel", "WhisperConfig", **whisper_settings)()
    encoder = whisper.encoder
    assert isinstance(encoder, nn.Module)
    return encoder


# Plain nets.


def _seeded(made: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(SEED)
        return made()

    return build


def _block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU())


class UNet(nn.Module):
    """Halves an image thrice, so its height and width are multiples of 8; a mask's logit for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 24, 32)
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((1, *widths), widths, strict=False))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[0], 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        seen = []
        for block in self.down:
            image = block(image)
            seen.append(image)
            image = nn.functional.max_pool2d(image, 2)
        image = seen.pop()
        for block in reversed(self.up):
            wide = nn.functional.interpolate(image, scale_factor=2.0)
            image = block(torch.cat([seen.pop(), wide], 1))
        found: Tensor = self.head(image)
        return found


class Recurrent(nn.Module):
    """Reads sequences, each up to its own length, and says a class."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.net = kind(12, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        read, _ = self.net(frames)
        last = read.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, read.shape[-1]))[:, 0]
        found: Tensor = 4 * self.head(last)
        return found


class Signal(nn.Module):
    """A 1-D CNN over a signal of any length: one score."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(3, 16, 7, stride=2, padding=3), nn.ReLU(), nn.Conv1d(16, 32, 5, stride=2, padding=2), nn.ReLU()
        )
        self.head = nn.Linear(32, 1)

    def forward(self, signal: Tensor) -> Tensor:
        return torch.sigmoid(8 * self.head(self.net(signal).mean(-1)))[:, 0]


class Pair(nn.Module):
    """Two inputs, three outputs: a score, classes and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(16, 32), nn.Linear(8, 32)
        self.score, self.classes, self.embedding = nn.Linear(32, 1), nn.Linear(32, 4), nn.Linear(32, 16)

    def forward(self, answer: Tensor, question: Tensor) -> dict[str, Tensor]:
        both = torch.tanh(self.left(answer) + self.right(question))
        return {
            "score": torch.sigmoid(3 * self.score(both))[:, 0],
            "classes": 6 * self.classes(both),
            "embedding": self.embedding(both),
        }


class LogMel(nn.Module):
    """Sound to log-mel features by a DFT inside the graph, and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(256))
        self.register_buffer("mel", torch.rand(129, 20))
        self.net = nn.Conv1d(20, 24, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, sound: Tensor) -> Tensor:
        spectrum = torch.stft(sound, 256, 128, window=self.window, center=False, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        features = torch.log(power.transpose(1, 2) @ self.mel + 1e-3).transpose(1, 2)
        found: Tensor = 8 * self.head(torch.relu(self.net(features)).mean(-1))
        return found


class InPlace(nn.Module):
    """Writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, image: Tensor) -> Tensor:
        image /= 255
        found: Tensor = 8 * self.net(image)
        return found


class Extra(nn.Module):
    """Returns more than is declared, and nothing for a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> dict[str, Any]:
        hidden = torch.tanh(x)
        return {"hidden": (hidden, x), "logits": 8 * self.net(hidden), "loss": None}


class Names(nn.Module):
    """Its outputs are named like operators and like one of its own modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.embedding(ids).mean(1)
        return pooled, torch.softmax(8 * self.net(pooled), -1)


class Classes(nn.Module):
    """Says the numbers of classes, not their logits, and whether it is sure."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 6))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(features)
        return logits.argmax(-1), logits.amax(-1) > 0


class Root(nn.Module):
    """Squares numbers near 600, which half precision cannot hold, takes the root of their mean, and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return torch.sigmoid(4 * self.net(scaled))[:, 0]


class Normalized(nn.Module):
    """Means, norms and pools, which opset 17 writes otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.RMSNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(torch.relu(self.net(image)), 1)[..., 0, 0]
        found: Tensor = 8 * self.head(
            nn.functional.normalize(self.norm(pooled), dim=-1) + pooled.mean(-1, keepdim=True)
        )
        return found


layers = _seeded(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)))
unet = _seeded(UNet)
lstm = _seeded(lambda: Recurrent(nn.LSTM))
gru = _seeded(lambda: Recurrent(nn.GRU))
signal = _seeded(Signal)
pair = _seeded(Pair)
log_mel = _seeded(LogMel)
in_place = _seeded(InPlace)
extra = _seeded(Extra)
names = _seeded(Names)
classes = _seeded(Classes)
root = _seeded(Root)
normalized = _seeded(Normalized)
