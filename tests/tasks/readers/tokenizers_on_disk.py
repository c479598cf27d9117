"""A tokenizer in a folder, and rows of texts: what people bring."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "where", "is", "my", "parcel", "money", "back", "now")
PAD = 0


def save_tokenizer(folder: Path, longest: int = 12) -> Path:
    """A tokenizer of whole words; `folder` may be there."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=WORDS[1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=WORDS[PAD], unk_token=WORDS[1], model_max_length=longest
    ).save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A `.jsonl` file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
