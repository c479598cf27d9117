"""MiniLM that turns sentences into points: `all-MiniLM-L6-v2` as sentence-transformers runs it, in one module.

What sentence-transformers does after BERT, the mean over tokens and the length of 1, belongs to the engine: so a
service needs neither library, and the gate judges what is searched with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import BertConfig, BertModel

if TYPE_CHECKING:
    from torch import Tensor


class SentenceEmbedder(BertModel):
    """BERT with its pooling; parameters are named as in the published file."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Embed sentences.

        Args:
            input_ids: int64 [batch, sequence], padding last.
            attention_mask: int64 [batch, sequence], 1 on tokens and 0 on padding.

        Returns:
            ``sentence_embedding``, float32 [batch, 384], each of length 1.
        """
        tokens = super().forward(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.to(tokens.dtype)[:, :, None]
        mean = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return {"sentence_embedding": nn.functional.normalize(mean, dim=-1)}


def build() -> nn.Module:
    """Return the embedder with the sizes of all-MiniLM-L6-v2, without its weights."""
    return SentenceEmbedder(
        BertConfig(
            vocab_size=30522,
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            max_position_embeddings=512,
        )
    )
