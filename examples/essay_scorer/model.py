"""RoBERTa-style encoder that scores essays: an overall score and the traits content, structure and language.

Written by hand instead of taken from a library, so that this file and torch are all that an export needs. Every
operation is one that ONNX, FP16 and INT8 know: plain matrix products, softmax, LayerNorm, GELU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MASKED = -1e4
"""Added to the attention logits of padding. Not ``finfo.min``: that is -inf after a cast to FP16, and NaN follows."""

TRAITS = ("content", "structure", "language")
"""Names of the columns of the ``traits`` output, in order."""


@dataclass(frozen=True)
class ScorerConfig:
    """Sizes of the network. ``max_tokens`` counts ``<s>`` and ``</s>``; ``pad_id`` is RoBERTa's 1."""

    vocabulary: int = 1024
    max_tokens: int = 256
    layers: int = 4
    hidden: int = 160
    heads: int = 5
    feed_forward: int = 512
    pad_id: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be split over the heads.

        Raises:
            ValueError: ``hidden`` is no multiple of ``heads``.
        """
        if self.hidden % self.heads:
            message = f"hidden {self.hidden} is no multiple of heads {self.heads}; change one of them"
            raise ValueError(message)


class SelfAttention(nn.Module):
    """Multi-head attention in explicit matrix products, which every exporter and quantizer sees as such."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.width = config.hidden // config.heads
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key = nn.Linear(config.hidden, config.hidden)
        self.value = nn.Linear(config.hidden, config.hidden)
        self.out = nn.Linear(config.hidden, config.hidden)

    def _split(self, x: Tensor) -> Tensor:
        """[batch, sequence, hidden] to [batch, heads, sequence, width]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.width).transpose(1, 2)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Mix the tokens of ``x`` [batch, sequence, hidden] under the additive ``bias`` [batch, 1, 1, sequence]."""
        # The query is scaled before the product: the logits then stay small enough for FP16.
        query = self._split(self.query(x) * self.width**-0.5)
        logits = torch.matmul(query, self._split(self.key(x)).transpose(2, 3)) + bias
        mixed = torch.matmul(torch.softmax(logits, dim=-1), self._split(self.value(x)))
        return self.out(mixed.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]  # nn.Module returns Any


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual and a LayerNorm after it (post-LN, as in RoBERTa)."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden)
        self.expand = nn.Linear(config.hidden, config.feed_forward)
        self.contract = nn.Linear(config.feed_forward, config.hidden)
        self.output_norm = nn.LayerNorm(config.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map hidden states [batch, sequence, hidden] to the next layer's."""
        x = self.attention_norm(x + self.attention(x, bias))
        expanded = nn.functional.gelu(self.expand(x))
        return self.output_norm(x + self.contract(expanded))  # type: ignore[no-any-return]  # nn.Module returns Any


class EssayScorer(nn.Module):
    """Encoder, masked mean pooling over tokens and layers, and a head with four sigmoid outputs.

    The head reads the mean of all layers, not the last alone: deep post-LN layers push the weakest essays onto one
    point, and scores that coincide make a comparison of distributions jump at the smallest difference.
    """

    def __init__(self, config: ScorerConfig | None = None) -> None:
        super().__init__()
        self.config = config or ScorerConfig()
        sizes = self.config
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.hidden, padding_idx=sizes.pad_id)
        # RoBERTa counts positions from pad_id + 1, and padding itself sits at pad_id.
        self.positions = nn.Embedding(sizes.max_tokens + sizes.pad_id + 1, sizes.hidden, padding_idx=sizes.pad_id)
        self.embedding_norm = nn.LayerNorm(sizes.hidden)
        self.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.layers))
        self.pooler = nn.Linear(sizes.hidden, sizes.hidden)
        self.dropout = nn.Dropout(sizes.dropout)
        self.head = nn.Linear(sizes.hidden, 1 + len(TRAITS))
        self.apply(_initialise)

    def _embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token plus position embeddings, normalised: [batch, sequence, hidden]."""
        # A range, not a running sum over the mask: padding comes last, and TensorRT 8.6 makes a loop of a running sum.
        positions = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device) * attention_mask
        positions = positions + self.config.pad_id
        return self.embedding_norm(self.tokens(input_ids) + self.positions(positions))  # type: ignore[no-any-return]  # nn.Module returns Any

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Outputs before the sigmoid, float32 [batch, 4]: score, content, structure, language."""
        x = self._embed(input_ids, attention_mask)
        # Chosen with where, not cast from int64: converters to FP16 miss the type inside a Cast.
        mask = torch.where(attention_mask > 0, 1.0, 0.0)
        bias = (1.0 - mask[:, None, None, :]) * MASKED
        total = x
        for layer in self.layers:
            x = layer(x, bias)
            total = total + x
        weights = mask / mask.sum(dim=1, keepdim=True)
        pooled = (total * weights[:, :, None]).sum(dim=1) / (len(self.layers) + 1)
        return self.head(self.dropout(nn.functional.gelu(self.pooler(pooled))))  # type: ignore[no-any-return]  # nn.Module returns Any

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score essays.

        Args:
            input_ids: int64 [batch, sequence], the tokenizer's ids, ``<pad>`` (1) after the end.
            attention_mask: int64 [batch, sequence], 1 on tokens and 0 on padding; at least one token a row.

        Returns:
            ``score`` float32 [batch] and ``traits`` float32 [batch, 3], all in [0, 1].
        """
        values = torch.sigmoid(self.logits(input_ids, attention_mask))
        return values[:, 0], values[:, 1:]


def _initialise(module: nn.Module) -> None:
    """RoBERTa's initialisation: normal with deviation 0.02, biases and the padding row zero."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()


def build() -> nn.Module:
    """Return the scorer with the sizes of the shipped weights, untrained."""
    return EssayScorer()
