"""RoBERTa-base of transformers, with its pooler."""

from __future__ import annotations

import torch
from tiling import fill
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

DEVIATION = 0.02
TOKENS = 512
FIRST_POSITION = 2
MASKED = -200.0
"""Added to a masked score: exp(-200) is 0 in FP32. Nothing larger, because AutoCast keeps what exceeds 512 in FP32."""


class Encoder(nn.Module):
    """Takes and gives tensors only. PyTorch runs transformers' defaults; TensorRT gets the same function in its words.

    TensorRT fuses attention that is written as matrix products around a softmax, but not the NaN check that exporters
    put behind the softmax of a boolean mask. It runs the running sum, by which RoBERTa numbers tokens that are not
    padding, as a loop; with padding at the end, the numbers 2, 3, … do as well.
    """

    def __init__(self) -> None:
        super().__init__()
        config = RobertaConfig(
            vocab_size=50265,
            max_position_embeddings=TOKENS + FIRST_POSITION,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            use_cache=False,
        )
        self.roberta = RobertaModel(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the pooled state [batch, 768] of token ids and their mask, both int64 [batch, 512]."""
        if torch.onnx.is_in_onnx_export():
            return self._exported(input_ids, attention_mask)
        return self.roberta(input_ids=input_ids, attention_mask=attention_mask).pooler_output

    def _exported(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.roberta.set_attn_implementation("eager")
        pooled = self.roberta(
            input_ids=input_ids,
            attention_mask=torch.where(attention_mask > 0, 0.0, MASKED)[:, None, None, :],
            position_ids=torch.arange(FIRST_POSITION, FIRST_POSITION + TOKENS)[None],
            token_type_ids=torch.zeros(1, TOKENS, dtype=torch.int64),
        ).pooler_output
        self.roberta.set_attn_implementation("sdpa")
        return pooled


def build() -> nn.Module:
    """Return the model with seeded weights."""
    return fill(Encoder(), DEVIATION)
