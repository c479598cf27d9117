"""Seeded generator of essays at known quality levels, and the word-level tokenizer for them.

An essay has three latent qualities in [0, 1]: content (claims and evidence instead of vague talk, digressions and
repetition), structure (thesis, conclusion, order, paragraphs, connectives that fit) and language (rich words, spelling,
grammar, punctuation). Each sentence draws its features with these qualities as probabilities, so a short essay is
ambiguous, as a real one is. The level 1 to 6 follows from the qualities, not the other way round, and the length is
drawn with only a slight lean towards the level.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

LEVELS = (1, 2, 3, 4, 5, 6)
TRAIT_WEIGHTS = (0.4, 0.3, 0.3)
"""Shares of content, structure and language in the overall quality."""

MAX_TOKENS = 256
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<par>", "<num>")
PAD_ID = SPECIALS.index("<pad>")
MISSPELT_BUCKETS = 16
"""Ids that words outside the vocabulary share, by CRC-32 of the word."""

_TOKEN = re.compile(r"\n\n|[a-z]+|[0-9]+|[.,]")
_SLOT = re.compile(r"\{(\w+)\}")
_PARAGRAPH = "\n\n"
_ARTICLE = re.compile(r"\ba (?=[aeio])")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOKENS_A_SENTENCE = 13.5
_LONG_ENOUGH_TO_FRAME = 3
"""Sentences from which an essay has room for a thesis and a conclusion."""
_LONG_ENOUGH_TO_OBJECT = 6
_SHORTEST_MISSPELT = 4
_TRAIT_SPREAD = 0.2
"""Deviation of one quality from the essay's overall quality."""
_FORM_SPREAD = 0.13
"""Deviation of what one essay shows from what its writer can do: the part of a level that no reader can tell."""


@dataclass(frozen=True)
class Topic:
    """One subject to write about: complete clauses that claim, state a fact or object."""

    name: str
    claims: tuple[str, ...]
    facts: tuple[str, ...]
    objections: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """The word lists of ``lexicon.json``. ``{slots}`` in its clauses are filled from the other lists."""

    synonyms: dict[str, dict[str, list[str]]]
    frames: dict[str, list[str]]
    connectives: dict[str, list[str]]
    fillers: dict[str, list[str]]
    grammar_slips: dict[str, str]
    topics: tuple[Topic, ...]


@dataclass(frozen=True)
class Essay:
    """A text with its level (1 to 6) and its qualities content, structure and language, each in [0, 1]."""

    text: str
    level: int
    traits: tuple[float, float, float]

    @property
    def score(self) -> float:
        """The level on a scale from 0 to 1."""
        return (self.level - 1) / 5


@cache
def load_lexicon() -> Lexicon:
    """Read the word lists next to this file."""
    raw = json.loads(Path(__file__).with_name("lexicon.json").read_text(encoding="utf-8"))
    topics = tuple(
        Topic(item["name"], tuple(item["claims"]), tuple(item["facts"]), tuple(item["objections"]))
        for item in raw["topics"]
    )
    return Lexicon(
        synonyms=raw["synonyms"],
        frames=raw["frames"],
        connectives=raw["connectives"],
        fillers=raw["fillers"],
        grammar_slips=raw["grammar_slips"],
        topics=topics,
    )


def level_of(traits: tuple[float, float, float]) -> int:
    """Return the level, 1 to 6, that qualities in [0, 1] amount to."""
    overall = sum(weight * trait for weight, trait in zip(TRAIT_WEIGHTS, traits, strict=True))
    return int(np.clip(np.rint(1 + 5 * overall), LEVELS[0], LEVELS[-1]))


def draw_traits(rng: np.random.Generator, level: int) -> tuple[float, float, float]:
    """Draw qualities that amount to ``level``: correlated with it, but unlike each other (rejection sampling)."""
    while True:
        centre = (level - 1 + rng.uniform(-0.5, 0.5)) / 5
        content, structure, language = np.clip(centre + rng.normal(0.0, _TRAIT_SPREAD, size=3), 0.0, 1.0)
        traits = (float(content), float(structure), float(language))
        if level_of(traits) == level:
            return traits


class _Writer:
    """Writes one essay with the given qualities."""

    def __init__(self, rng: np.random.Generator, traits: tuple[float, float, float]) -> None:
        self.rng = rng
        self.lexicon = load_lexicon()
        shown = np.clip(np.asarray(traits) + rng.normal(0.0, _FORM_SPREAD, size=3), 0.0, 1.0)
        self.content, self.structure, self.language = (float(value) for value in shown)
        self.used: set[str] = set()
        self.topic = self.lexicon.topics[int(rng.integers(len(self.lexicon.topics)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: list[str] | tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def fresh(self, options: tuple[str, ...]) -> str:
        """Pick a clause that the essay does not hold yet, as long as there is one."""
        chosen = self.pick([option for option in options if option not in self.used] or options)
        self.used.add(chosen)
        return chosen

    def fill(self, template: str) -> str:
        """Fill the slots of a clause, also those within what fills a slot."""
        while match := _SLOT.search(template):
            template = template[: match.start()] + self._filler(match[1]) + template[match.end() :]
        return template

    def _filler(self, slot: str) -> str:
        if slot == "topic":
            return self.topic.name
        if slot in {"fact", "objection"}:
            return self.fresh(self.topic.facts if slot == "fact" else self.topic.objections)
        if slot in self.lexicon.synonyms:
            return self.pick(self.lexicon.synonyms[slot]["rich" if self.chance(self.language) else "plain"])
        return self.pick(self.lexicon.fillers[slot])

    def sentence(self, role: str, earlier: list[str]) -> str:
        """Return a clause that plays ``role``, or, the worse the content, one that says nothing."""
        if self.chance(self.content):
            return self.fill(self.fresh(self.topic.claims) if role == "claim" else self.pick(self.lexicon.frames[role]))
        if earlier and self.chance(0.15):
            return self.pick(earlier)
        return self.fill(self.pick(self.lexicon.frames["digression" if self.chance(0.35) else "vague"]))

    def connective(self, role: str, *, last: bool) -> str:
        """Return a connective that fits ``role``, or, the worse the structure, none or one that does not."""
        kinds = {"thesis": "opening", "claim": "addition", "counter": "contrast", "conclusion": "closing"}
        if self.chance(self.structure):
            fits = self.chance(0.7) or last
            return self.pick(self.lexicon.connectives[kinds.get(role, "support")]) if fits else ""
        if self.chance(0.5):
            return self.pick(self.lexicon.connectives["poor"])
        return self.pick(self.lexicon.connectives[self.pick(("closing", "contrast", "result"))]) * self.chance(0.3)

    def roles(self, sentences: int) -> list[str]:
        """Plan the essay: thesis, arguments of a claim and its support, an objection, a conclusion."""
        supports = ("evidence", "example", "reason")
        body = ["claim" if i % 3 == 0 else self.pick(supports) for i in range(sentences)]
        if sentences >= _LONG_ENOUGH_TO_FRAME:
            body[0] = "thesis" if self.chance(self.structure) else body[0]
            body[-1] = "conclusion" if self.chance(self.structure) else body[-1]
        if sentences >= _LONG_ENOUGH_TO_OBJECT and self.chance(self.content):
            body[-2] = "counter"
        for i in range(1, sentences):
            if self.chance(0.5 * (1 - self.structure)):
                body[i - 1], body[i] = body[i], body[i - 1]
        return body

    def misspell(self, word: str) -> str:
        """Drop, double, swap or replace one letter of a word."""
        i = int(self.rng.integers(1, len(word) - 1))
        variants = (
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
            word[:i] + self.pick(tuple(_LETTERS)) + word[i + 1 :],
        )
        return self.pick(variants)

    def slip(self, word: str) -> str:
        """Return the word as this writer spells and inflects it."""
        flaw = 1 - self.language
        if word in self.lexicon.grammar_slips and self.chance(0.4 * flaw):
            return self.lexicon.grammar_slips[word]
        if len(word) >= _SHORTEST_MISSPELT and word.isalpha() and self.chance(0.2 * flaw**1.3):
            return self.misspell(word)
        return word

    def write(self, sentences: int) -> str:
        """Write the whole text: sentences with a capital, paragraphs apart by an empty line."""
        text, clauses = "", list[str]()
        roles = self.roles(sentences)
        for i, role in enumerate(roles):
            clause = self.sentence(role, clauses)
            clauses.append(clause)
            words = _ARTICLE.sub("an ", f"{self.connective(role, last=i == sentences - 1)} {clause}").split()
            line = " ".join(self.slip(word) for word in words).replace(" ,", ",")
            starts = role in {"claim", "conclusion", "counter"}
            broken = self.chance(self.structure if starts else 0.15 * (1 - self.structure))
            text += (_PARAGRAPH if broken else " ") if text else ""
            text += line[:1].upper() + line[1:] + ("" if self.chance(0.5 * (1 - self.language)) else ".")
        return text


def write_essay(rng: np.random.Generator, level: int) -> Essay:
    """Write one essay of ``level`` (1 to 6). Its length, 16 to 256 tokens, leans only slightly on the level."""
    traits = draw_traits(rng, level)
    lean = 0.05 * (level - 3.5)
    tokens = 16 + (MAX_TOKENS - 16) * rng.beta(1.2 + lean, 1.2 - lean)
    sentences = max(2, int(np.rint(tokens / _TOKENS_A_SENTENCE)))
    return Essay(_Writer(rng, traits).write(sentences), level, traits)


def write_essays(seed: int, count: int, taken: set[str] | None = None) -> list[Essay]:
    """Write ``count`` different essays, the six levels in turn.

    Args:
        seed: same seed, same essays; no global random state is read or changed.
        count: number of essays.
        taken: texts that must not occur; the new texts are added to it, so that data sets stay disjoint.
    """
    taken = set() if taken is None else taken
    essays: list[Essay] = []
    attempt = 0
    while len(essays) < count:
        essay = write_essay(np.random.default_rng([seed, attempt]), LEVELS[len(essays) % len(LEVELS)])
        attempt += 1
        if essay.text not in taken:
            taken.add(essay.text)
            essays.append(essay)
    return essays


class Tokenizer:
    """Words to ids: specials first, then shared ids of unknown (misspelt) words, then the lexicon in order."""

    def __init__(self) -> None:
        first = len(SPECIALS) + MISSPELT_BUCKETS
        self._ids = {word: first + i for i, word in enumerate(sorted(_lexicon_words()))}
        self.size = first + len(self._ids)

    def _id_of(self, token: str) -> int:
        if token == _PARAGRAPH:
            return SPECIALS.index("<par>")
        if token.isdigit():
            return SPECIALS.index("<num>")
        return self._ids.get(token, len(SPECIALS) + zlib.crc32(token.encode()) % MISSPELT_BUCKETS)

    def encode(self, text: str) -> list[int]:
        """Return ``<s>``, the ids of the text and ``</s>``; at most 256 ids, the text's end cut off."""
        ids = [self._id_of(token) for token in _TOKEN.findall(text.lower())]
        return [SPECIALS.index("<s>"), *ids[: MAX_TOKENS - 2], SPECIALS.index("</s>")]


def _lexicon_words() -> set[str]:
    """Every word, comma and full stop that a text without misspelling can hold."""
    raw = Path(__file__).with_name("lexicon.json").read_text(encoding="utf-8")
    strings: list[str] = []

    def collect(node: object) -> None:
        if isinstance(node, str):
            strings.append(node)
        elif isinstance(node, dict):
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(json.loads(raw))
    words = {token for string in strings for token in _TOKEN.findall(_SLOT.sub(" ", string.lower()))}
    return {word for word in words if not word.isdigit()} | {".", ","}
