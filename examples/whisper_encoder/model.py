"""Whisper's encoder on as many frames as there are: the class of the library `transformers`, without its fixed length.

The library's forward refuses anything but 30 seconds, since it adds all positions. Here a clip gets the first ones, so
that one of a second takes a thirtieth of the work. What Whisper was trained to hear in the silence up to 30 seconds is
missing then: whoever does this to a trained checkpoint has to look at what it writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

if TYPE_CHECKING:
    from torch import Tensor

MELS = 80
LONGEST = 192
"""Frames of the longest clip."""


class DynamicWhisperEncoder(nn.Module):
    """The parts of a Whisper encoder, run on any even number of frames up to its longest."""

    def __init__(self, encoder: WhisperEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_features: Tensor) -> dict[str, Tensor]:
        """Encode clips.

        Args:
            input_features: float32 [batch, 80, frames], log-mel energies as Whisper's extractor scales them; frames is
                even and at most 192.

        Returns:
            ``last_hidden_state``, float32 [batch, frames / 2, 96].
        """
        encoder = self.encoder
        x = nn.functional.gelu(encoder.conv1(input_features))
        x = nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, None)
        return {"last_hidden_state": encoder.layer_norm(x)}


def build() -> nn.Module:
    """Return the encoder with the sizes of the shipped weights, untrained."""
    config = WhisperConfig(
        vocab_size=16,
        d_model=96,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=192,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=96,
        num_mel_bins=MELS,
        max_source_positions=LONGEST // 2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return DynamicWhisperEncoder(WhisperEncoder(config))
