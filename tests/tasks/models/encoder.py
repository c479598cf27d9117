"""A small nn.TransformerEncoder with a padding mask and a dynamic sequence."""

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(64, 32)
        layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 1)

    def forward(self, attention_mask: Tensor, input_ids: Tensor) -> Tensor:
        hidden = self.layers(self.tokens(input_ids), src_key_padding_mask=attention_mask == 0)
        weights = torch.where(attention_mask > 0, 1.0, 0.0)[:, :, None]
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return torch.sigmoid(self.head(pooled))[:, 0]


def build() -> nn.Module:
    return Encoder()
