"""Conformer that scores spoken answers from log-mel frames: overall, pronunciation and fluency.

After Gulati and others, "Conformer: Convolution-augmented Transformer for Speech Recognition" (2020), with absolute
instead of relative positions. Written by hand, so that this file and torch are all that an export needs. Every
operation is one that opset 17, FP16 and INT8 know, and no operation lets a padded frame reach a real one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

MASKED = -1e4
"""Added to the attention logits of padding. Not ``finfo.min``: that is -inf after a cast to FP16, and NaN follows."""

OUTPUTS = ("overall", "pronunciation", "fluency")
"""Names of the outputs, in order."""

SUBSAMPLING = 4
"""Frames that become one position of the encoder: two convolutions of stride 2."""


@dataclass(frozen=True)
class ConformerConfig:
    """Sizes of the network. The defaults are those of the shipped weights; ``max_frames`` counts input frames."""

    mels: int = 80
    max_frames: int = 600
    blocks: int = 4
    width: int = 144
    heads: int = 4
    feed_forward: int = 288
    kernel: int = 15
    channels: int = 16
    dropout: float = 0.05

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together.

        Raises:
            ValueError: ``width`` is no multiple of ``heads`` or odd, ``kernel`` is even, or ``mels`` or ``max_frames``
                is no multiple of 4.
        """
        if self.width % self.heads or self.width % 2:
            message = f"width {self.width} is odd or no multiple of heads {self.heads}; change one of them"
            raise ValueError(message)
        if self.kernel % 2 == 0:
            message = f"kernel {self.kernel} is even and has no middle; take {self.kernel + 1}"
            raise ValueError(message)
        for name, size in (("mels", self.mels), ("max_frames", self.max_frames)):
            if size % SUBSAMPLING:
                message = (
                    f"{name} {size} is no multiple of {SUBSAMPLING}; take {size + SUBSAMPLING - size % SUBSAMPLING}"
                )
                raise ValueError(message)


class Subsampling(nn.Module):
    """Two convolutions of stride 2 in time and frequency, and a projection to the width of the encoder."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, config.channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(config.channels, config.channels, 3, stride=2, padding=1)
        self.project = nn.Linear(config.channels * config.mels // SUBSAMPLING, config.width)

    def forward(self, mel: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce ``mel`` [batch, frames, mels] and ``mask`` [batch, frames] to a quarter of the frames.

        Returns:
            [batch, positions, width] and [batch, positions], where positions is frames / 4, rounded up.
        """
        # A convolution of stride 2 and padding 1 is centred on every second frame: the mask keeps just those.
        half = mask[:, ::2]
        quarter = half[:, ::2]
        x = torch.relu(self.first((mel * mask[:, :, None])[:, None]))
        x = torch.relu(self.second(x * half[:, None, :, None]))
        return self.project(x.transpose(1, 2).flatten(2)), quarter


class FeedForward(nn.Module):
    """LayerNorm, expansion, SiLU, contraction; the block adds half of it."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.expand = nn.Linear(config.width, config.feed_forward)
        self.contract = nn.Linear(config.feed_forward, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, positions, width] to the same shape, each position by itself."""
        return self.dropout(self.contract(nn.functional.silu(self.expand(self.norm(x)))))  # type: ignore[no-any-return]  # nn.Module returns Any


class SelfAttention(nn.Module):
    """LayerNorm and multi-head attention in explicit matrix products, which every exporter and quantizer sees."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_width = config.width // config.heads
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def _split(self, x: Tensor) -> Tensor:
        """[batch, positions, width] to [batch, heads, positions, width of a head]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Mix the positions of ``x`` [batch, positions, width] under the additive ``bias`` [batch, 1, 1, positions]."""
        x = self.norm(x)
        # The query is scaled before the product: the logits then stay small enough for FP16.
        query = self._split(self.query(x) * self.head_width**-0.5)
        logits = torch.matmul(query, self._split(self.key(x)).transpose(2, 3)) + bias
        mixed = torch.matmul(torch.softmax(logits, dim=-1), self._split(self.value(x)))
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]  # nn.Module returns Any


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise with GLU, depthwise over time, batch norm, SiLU, pointwise.

    Pointwise convolutions are linear layers, which they equal. The depthwise one has two dimensions, the second of
    extent 1: for one dimension TensorRT 8's parser puts a reshape between the weights' Q/DQ nodes and the convolution.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.content = nn.Linear(config.width, config.width)
        self.gate = nn.Linear(config.width, config.width)
        self.depthwise = nn.Conv2d(
            config.width,
            config.width,
            (config.kernel, 1),
            padding=(config.kernel // 2, 0),
            groups=config.width,
            bias=False,
        )
        self.batch_norm = nn.BatchNorm2d(config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix neighbouring positions of ``x`` [batch, positions, width]; ``mask`` [batch, positions], 0 on padding."""
        x = self.norm(x)
        # Without the mask a LayerNorm's bias would make padding differ from the zeros beyond the end.
        x = self.content(x) * torch.sigmoid(self.gate(x)) * mask[:, :, None]
        x = self.batch_norm(self.depthwise(x.transpose(1, 2)[:, :, :, None]))
        x = nn.functional.silu(x[:, :, :, 0].transpose(1, 2))
        return self.dropout(self.out(x))  # type: ignore[no-any-return]  # nn.Module returns Any


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, another half feed-forward, LayerNorm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.before = FeedForward(config)
        self.attention = SelfAttention(config)
        self.convolution = ConvolutionModule(config)
        self.after = FeedForward(config)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """Map states [batch, positions, width] to the next block's."""
        x = x + 0.5 * self.before(x)
        x = x + self.attention(x, bias)
        x = x + self.convolution(x, mask)
        return self.norm(x + 0.5 * self.after(x))  # type: ignore[no-any-return]  # nn.Module returns Any


class OralScorer(nn.Module):
    """Subsampling, Conformer blocks, masked mean pooling over positions and blocks, a head with three sigmoids.

    The head reads the mean of all blocks, not the last alone, so that no block can push many clips onto one score:
    scores that coincide make a comparison of distributions jump at the smallest difference.
    """

    positions: Tensor

    def __init__(self, config: ConformerConfig | None = None) -> None:
        super().__init__()
        self.config = config or ConformerConfig()
        sizes = self.config
        self.subsampling = Subsampling(sizes)
        # A table, since FP16 cannot compute the sine of a large angle.
        self.register_buffer(
            "positions", sinusoids(sizes.max_frames // SUBSAMPLING, sizes.width)[None], persistent=False
        )
        self.blocks = nn.ModuleList(ConformerBlock(sizes) for _ in range(sizes.blocks))
        self.pooler = nn.Linear(sizes.width, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.head = nn.Linear(sizes.width, len(OUTPUTS))

    def logits(self, mel: Tensor, mask: Tensor) -> Tensor:
        """Outputs before the sigmoid, float32 [batch, 3]: overall, pronunciation, fluency."""
        x, mask = self.subsampling(mel, torch.where(mask > 0.5, 1.0, 0.0))  # noqa: PLR2004  # halfway between 0 and 1
        x = x + self.positions[:, : x.shape[1]]
        bias = (1.0 - mask[:, None, None, :]) * MASKED
        # At least 1: a batch filled up with empty clips must not divide by 0.
        weights = (mask / mask.sum(dim=1, keepdim=True).clamp(min=1.0))[:, None, :]
        states = []
        for block in self.blocks:
            x = block(x, mask, bias)
            states.append(x)
        pooled = torch.matmul(weights, reduce(torch.add, states))[:, 0] / len(states)
        return self.head(self.dropout(nn.functional.silu(self.pooler(pooled))))  # type: ignore[no-any-return]  # nn.Module returns Any

    def forward(self, mel: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score clips.

        Args:
            mel: float32 [batch, frames, 80], log-mel energies, 0 at the floor; anything on padding.
            mask: float32 [batch, frames], 1.0 on real frames, which come first, and 0.0 on padding.

        Returns:
            ``overall``, ``pronunciation`` and ``fluency``, each float32 [batch] in [0, 1].
        """
        values = torch.sigmoid(self.logits(mel, mask))
        return values[:, 0], values[:, 1], values[:, 2]


def sinusoids(length: int, width: int) -> Tensor:
    """Return the positional encoding of Vaswani and others (2017), float32 [length, width]: sines, then cosines."""
    rates = torch.exp(torch.arange(width // 2) * (-2 * math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def build() -> nn.Module:
    """Return the scorer with the sizes of the shipped weights, untrained."""
    return OralScorer()
