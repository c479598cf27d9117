"""BERT that says what a message to a help desk is about: the class of the library `transformers`, in a small size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import BertConfig, BertForSequenceClassification

if TYPE_CHECKING:
    from torch import nn

INTENTS = ("balance", "transfer", "card_lost", "card_new", "opening_hours", "complaint", "loan", "password")
"""The classes, in the order of the logits."""


def build() -> nn.Module:
    """Return the classifier with the sizes of the shipped weights, untrained.

    Its forward takes ``input_ids`` and ``attention_mask``, int64 [batch, sequence], and gives ``logits`` [batch, 8].
    """
    config = BertConfig(
        vocab_size=512,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=32,
        num_labels=len(INTENTS),
    )
    return BertForSequenceClassification(config)
