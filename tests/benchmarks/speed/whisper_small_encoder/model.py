"""The encoder of Whisper-small of transformers."""

from __future__ import annotations

import torch
from tiling import fill
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

DEVIATION = 0.02


class Encoder(nn.Module):
    """Takes and gives tensors only. The mean over positions keeps the stored reference small; it costs nothing.

    PyTorch runs transformers' defaults. Exported, attention is written as matrix products around a softmax, which
    TensorRT fuses.
    """

    def __init__(self) -> None:
        super().__init__()
        config = WhisperConfig(
            d_model=768,
            encoder_layers=12,
            encoder_attention_heads=12,
            encoder_ffn_dim=3072,
            num_mel_bins=80,
            max_source_positions=1500,
        )
        self.encoder = WhisperEncoder(config)

    def forward(self, mels: Tensor) -> Tensor:
        """Return the mean state [batch, 768] of log-mel spectrograms [batch, 80, 3000]."""
        if torch.onnx.is_in_onnx_export():
            self.encoder.set_attn_implementation("eager")
            states = self.encoder(input_features=mels).last_hidden_state
            self.encoder.set_attn_implementation("sdpa")
        else:
            states = self.encoder(input_features=mels).last_hidden_state
        return states.mean(dim=1)


def build() -> nn.Module:
    """Return the model with seeded weights."""
    return fill(Encoder(), DEVIATION)
