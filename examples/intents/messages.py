"""Messages to a help desk, typed and spoken, from templates; and the tokenizer that reads them.

What is typed has slips of the finger and lacks words; what is spoken has fillers, and is longer.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

SEQUENCE_LENGTHS = (8, 16, 32)
"""Tokens of the shards; a message goes into the shortest that holds it."""
PAD, START, END, FIRST = 0, 1, 2, 3
VOCABULARY = 512
CHANNELS = ("typed", "spoken")
SLIP = 0.06
"""Share of the letters in what is typed, by word, that another one takes the place of."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "balance": (
        "how much money is on my {account}",
        "what is the balance of my {account} {when}",
        "show me what is left on the {account}",
        "is there still money on my {account} {when}",
    ),
    "transfer": (
        "send {amount} {currency} to {person}",
        "transfer {amount} {currency} from my {account} to {person} {when}",
        "i want to pay {person} {amount} {currency} {when}",
        "move {amount} {currency} from the {account} to {person}",
    ),
    "card_lost": (
        "i lost my {card} card in {place}",
        "my {card} card was stolen in {place} {when}",
        "block the {card} card at once i can not find it",
        "somebody took my {card} card please stop it",
    ),
    "card_new": (
        "i would like a new {card} card",
        "order a second {card} card for {person}",
        "my {card} card is broken can i have another",
        "when does my new {card} card come to {place}",
    ),
    "opening_hours": (
        "when do you open in {place} {when}",
        "is the branch in {place} open {when}",
        "until when is somebody there in {place}",
        "what are the hours of your office in {place}",
    ),
    "complaint": (
        "{person} was rude to me in {place} {when}",
        "i have waited for {amount} days and i am angry",
        "this is the worst bank in {place} i want to complain",
        "you charged me {amount} {currency} twice {when}",
    ),
    "loan": (
        "can i borrow {amount} {currency} for a house in {place}",
        "what interest do you ask for a loan of {amount} {currency}",
        "i need a loan of {amount} {currency} {when}",
        "how long do i pay back {amount} {currency}",
    ),
    "password": (
        "i forgot my password for the {account}",
        "the app does not let me in since {when}",
        "how can i change the pin of my {card} card",
        "my login for the {account} is locked {when}",
    ),
}
SLOTS = {
    "account": ("savings account", "current account", "account", "joint account", "student account"),
    "amount": ("ten", "twenty", "fifty", "ninety", "two hundred", "three hundred", "one thousand", "five thousand"),
    "currency": ("euros", "dollars", "pounds", "francs", "crowns"),
    "person": ("my mother", "anna", "mister brown", "my landlord", "peter", "my sister", "the clerk", "doctor smith"),
    "when": ("today", "tomorrow", "on monday", "last night", "this week", "right now", "yesterday", "at noon"),
    "card": ("credit", "debit", "gold", "bank", "travel"),
    "place": ("paris", "london", "the station", "the old town", "berlin", "rome", "the harbour", "the airport"),
}
FILLERS = ("uh", "well", "you know", "i mean", "like", "so", "er")
OPENINGS = ("hello", "hi there", "good morning", "excuse me", "please tell me", "listen")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _known_words() -> dict[str, int]:
    texts = [text for templates in TEMPLATES.values() for text in templates]
    texts += [text for values in SLOTS.values() for text in values] + list(FILLERS) + list(OPENINGS)
    words = sorted({word for text in texts for word in text.split() if not word.startswith("{")})
    return {word: FIRST + number for number, word in enumerate(words)}


WORDS = _known_words()
"""The number of each word of the templates; others share what is left of the vocabulary by their hash."""


def tokenize(text: str) -> list[int]:
    """Return the ids of a message, start and end included; a long one is cut."""
    left = FIRST + len(WORDS)
    ids = [WORDS.get(word, left + zlib.crc32(word.encode()) % (VOCABULARY - left)) for word in text.lower().split()]
    return [START, *ids[: SEQUENCE_LENGTHS[-1] - 2], END]


def _fill(generator: Generator, template: str) -> str:
    words = []
    for word in template.split():
        choices = SLOTS.get(word.strip("{}"), ()) if word.startswith("{") else ()
        words.append(str(generator.choice(choices)) if choices else word)
    return " ".join(words)


def _slip(generator: Generator, word: str) -> str:
    if generator.random() > SLIP * len(word):
        return word
    place = int(generator.integers(len(word)))
    return word[:place] + LETTERS[generator.integers(len(LETTERS))] + word[place + 1 :]


def write_message(generator: Generator, intent: str, channel: str) -> str:
    """Return one message of an intent, as it comes in by a channel."""
    words = _fill(generator, str(generator.choice(TEMPLATES[intent]))).split()
    if channel == "typed":
        return " ".join(_slip(generator, word) for word in words if len(words) < 5 or generator.random() > 0.06)  # noqa: PLR2004  # a short message keeps its words
    spoken = [str(generator.choice(OPENINGS))] if generator.random() < 0.5 else []  # noqa: PLR2004  # half of them greet
    for word in words:
        if generator.random() < 0.15:  # noqa: PLR2004  # a filler before every seventh word or so
            spoken.append(str(generator.choice(FILLERS)))
        spoken.append(word)
    return " ".join(spoken)


def draw(seed: int, count: int) -> Sequence[dict[str, Any]]:
    """Return samples: ``input_ids`` and ``attention_mask`` int64 [sequence], ``label``, ``slice.channel``."""
    generator = np.random.default_rng(seed)
    intents = tuple(TEMPLATES)
    samples = []
    for number in range(count):
        channel = CHANNELS[number % len(CHANNELS)]
        label = int(generator.integers(len(intents)))
        ids = tokenize(write_message(generator, intents[label], channel))
        length = next(length for length in SEQUENCE_LENGTHS if length >= len(ids))
        padded = np.full(length, PAD, dtype=np.int64)
        padded[: len(ids)] = ids
        mask = (np.arange(length) < len(ids)).astype(np.int64)
        samples.append(
            {"input_ids": padded, "attention_mask": mask, "label": np.int64(label), "slice.channel": channel}
        )
    return samples
