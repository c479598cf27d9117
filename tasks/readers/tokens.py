"""Texts to token numbers, by the tokenizer in the model's folder, padded to a few lengths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tasks.errors import InputError
from tasks.readers.interface import InputHint, ReadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.samples.npz import Arrays

BUCKETS = 8
"""At most so many lengths: each is a file of samples, and a shape that is tried."""
STEP = 8
NO_LIMIT = 1 << 20
"""Tokenizers without a limit say a number above."""
MASK = "attention_mask"
SHARE_TOLD = 0.2
"""Unknown tokens are told from this share on."""


class Tokens(NamedTuple):
    """Inputs by bucket of lengths, with the places of its rows among the texts."""

    buckets: tuple[tuple[NDArray[np.int64], Arrays], ...]
    hints: Mapping[str, InputHint]
    notes: tuple[str, ...]


def tokenise(columns: Sequence[Sequence[str]], request: ReadRequest) -> Tokens:
    """Tokenise one column of texts, or two that make pairs.

    Raises:
        InputError: there is no tokenizer.
    """
    tokenizer = load_tokenizer(request.processor, request.origin)
    longest = _longest(tokenizer, request.longest)
    pad, note = _padding(tokenizer)
    notes = [note] if note else []
    encoded = tokenizer(*columns, truncation=longest is not None, max_length=longest, verbose=False)
    names = [name for name in encoded if name in tokenizer.model_input_names]
    lengths = np.array([len(row) for row in encoded[names[0]]], np.int64)
    notes += _told_unknown(tokenizer, encoded[names[0]])
    if longest is not None:
        notes += _told_cut(tokenizer, columns, lengths, longest)
    pads = {name: _pad_of(name, pad, tokenizer) for name in names}
    buckets = _bucketed({name: encoded[name] for name in names}, lengths, pads, longest)
    hints = {name: InputHint(("sequence",), pads[name], _why(name, pads[name])) for name in names}
    return Tokens(buckets, hints, tuple(notes))


def load_tokenizer(folder: Path | None, origin: str) -> Any:
    """The tokenizer of a folder; nothing is fetched, and no code of it is run.

    Raises:
        InputError: there is no folder, no tokenizer in it, or no package that reads it.
    """
    if folder is None:
        raise InputError(
            f"{origin}: holds texts, and the model has no folder with a tokenizer; name it: --processor DIR"
        )
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 - seconds, and few need it
    except ImportError:
        raise InputError(
            f"{origin}: holds texts, which needs the package transformers; pip install transformers"
        ) from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    except Exception as error:  # noqa: BLE001 - what it raises depends on the tokenizer
        raise InputError(
            f"{folder.name}: holds no tokenizer that can be read ({_first_line(error)}); put tokenizer.json and"
            " tokenizer_config.json there, by tokenizer.save_pretrained, or name their folder: --processor DIR"
        ) from None
    if not words:
        raise InputError(_without_words(folder))
    return tokenizer


def _without_words(folder: Path) -> str:
    return (
        f"{folder.name}: holds a tokenizer without a word in it, as where tokenizer.json or its vocabulary is missing;"
        " save it there by tokenizer.save_pretrained, or name its folder: --processor DIR"
    )


def _told_unknown(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """Texts of mostly unknown words are a sign of another model's tokenizer, or of another language."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    tokens = sum(len(row) for row in rows)
    found = 0 if unknown is None else sum(list(row).count(unknown) for row in rows)
    if found < SHARE_TOLD * tokens:
        return []
    return [f"{found / tokens:.0%} of the tokens are the unknown one: is this the model's tokenizer, and its language?"]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")[:160] or type(error).__name__


def _longest(tokenizer: Any, of_model: int | None) -> int | None:
    limits = [limit for limit in (tokenizer.model_max_length, of_model) if limit is not None and limit < NO_LIMIT]
    return min(limits, default=None)


def _padding(tokenizer: Any) -> tuple[int, str]:
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id), ""
    return int(tokenizer.eos_token_id or 0), "the tokenizer has no padding token: its end-of-text token pads"


def _told_cut(tokenizer: Any, columns: Sequence[Sequence[str]], lengths: NDArray[np.int64], longest: int) -> list[str]:
    full = np.flatnonzero(lengths >= longest).tolist()
    if not full:
        return []
    again = tokenizer(*([column[place] for place in full] for column in columns), truncation=False, verbose=False)
    cut = sum(len(row) > longest for row in again["input_ids"])
    if not cut:
        return []
    return [f"{cut:,} of {len(lengths):,} texts are longer than the {longest} tokens that the model takes: cut"]


def _pad_of(name: str, pad: int, tokenizer: Any) -> int:
    return {MASK: 0, "token_type_ids": int(tokenizer.pad_token_type_id)}.get(name, pad)


def _why(name: str, pad: int) -> str:
    return f"tokens; padded with {pad}, as its tokenizer does" if name != MASK else "1 at tokens, 0 at padding"


def _bucketed(
    rows: Mapping[str, Sequence[Sequence[int]]],
    lengths: NDArray[np.int64],
    pads: Mapping[str, int],
    longest: int | None,
) -> tuple[tuple[NDArray[np.int64], Arrays], ...]:
    step = max(STEP, STEP * math.ceil(int(lengths.max()) / BUCKETS / STEP))
    ends = np.maximum(1, -(-lengths // step)) * step
    if longest is not None:
        ends = np.minimum(ends, longest)
    found = []
    for end in np.unique(ends):
        places = np.flatnonzero(ends == end)
        arrays: Arrays = {}
        for name, values in rows.items():
            arrays[name] = np.full((len(places), int(end)), pads[name], np.int64)
            for row, place in enumerate(places.tolist()):
                arrays[name][row, : len(values[place])] = values[place]
        found.append((places, arrays))
    return tuple(found)
