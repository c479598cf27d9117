"""Which keys an object may have: the same in a folder and in S3, so that what one store takes the other takes too."""

from __future__ import annotations

import re

from tasks.errors import InputError

# A part that starts with a dot is refused: `.` and `..` leave the folder, and a local store keeps its own files in one.
PART = re.compile(r"[A-Za-z0-9_=@+-][A-Za-z0-9._=@+-]{0,254}")
# S3 takes 1024 bytes, the store's own prefix included.
MAX_CHARACTERS = 800


def check_key(key: str) -> str:
    """Return `key` if it is one.

    Raises:
        InputError: it is no relative path of parts of `[A-Za-z0-9._=@+-]` that start with no dot and have 1 to 255
            characters, or it has more than 800 characters.
    """
    if len(key) > MAX_CHARACTERS:
        raise InputError(f"key {key[:40]!r}…: has {len(key)} characters, and {MAX_CHARACTERS} is the most; shorten it")
    if not is_key(key):
        raise InputError(
            f"key {key!r}: is no relative path of parts of [A-Za-z0-9._=@+-], joined by /, that start with no dot and"
            " have at most 255 characters; correct the name that it was made from"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` if keys can start with it; the empty one starts all.

    Raises:
        InputError: no key starts so.
    """
    if prefix:
        check_key(prefix + "x" if prefix.endswith("/") else prefix)
    return prefix


def is_key(key: str) -> bool:
    """Whether an object of this name belongs to the store; other tools may have put more into its bucket or folder."""
    return len(key) <= MAX_CHARACTERS and all(PART.fullmatch(part) for part in key.split("/"))
