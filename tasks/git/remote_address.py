"""Addresses of repositories that may be fetched: which forms there are, and which of them are allowed here.

An address comes from whoever can send a push, so it is text of a stranger's. Only plain forms are taken, each with one
spelling, so that comparing texts compares places: no escapes, no `..`, no upper case in hosts, no password, and no
transport of git that runs a program (`ext::`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTING = "ENGINEGATE_REPOSITORIES"
LONGEST = 1000
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*(?::[1-9][0-9]{{0,4}})?"
_PATH = r"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9._][A-Za-z0-9._+~-]*)"
# The user of ssh is part of the place (`git@`); what https has before `@` is a password or a trick.
_PLACE = rf"(?:https://{_HOST}|ssh://(?:[a-z_][a-z0-9_-]*@)?{_HOST}|file://(?=/))"
_PREFIX = re.compile(rf"{_PLACE}{_PATH}*/?")
_ADDRESS = re.compile(rf"{_PLACE}{_PATH}+/?")


def scheme_of(address: str) -> str:
    """The transport of a checked address: `https`, `ssh` or `file`."""
    return address.partition(":")[0]


def allowed_prefixes(setting: str | None) -> tuple[str, ...]:
    """The prefixes in ENGINEGATE_REPOSITORIES, separated by commas; none where it is not set."""
    return tuple(prefix for part in (setting or "").split(",") if (prefix := part.strip()))


def check_address(address: str, allowed: Sequence[str]) -> str:
    """The one spelling of an address, which starts with an allowed prefix; `file://` with links followed.

    Raises:
        InputError: it has no form that is taken, or nothing allows it.
    """
    if len(address) > LONGEST or not _ADDRESS.fullmatch(address):
        # Not repeated in full: what stands before an `@` may be a password.
        raise InputError(
            f"{address[:8]!a}…: is no address of a repository; write https://host/path, ssh://git@host/path or"
            " file:///path, with a host in lower case, no password and no '..', or name a folder"
        )
    if not allowed:
        raise InputError(
            f"{address}: nothing may be fetched here; set {SETTING} to the prefixes of addresses that may,"
            " as https://github.com/acme"
        )
    place = _spelled(address)
    if not any(place == prefix or place.startswith(f"{prefix}/") for prefix in map(_checked_prefix, allowed)):
        raise InputError(f"{address}: starts with none of {', '.join(allowed)}; if it may be fetched, add to {SETTING}")
    return place


def _checked_prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix) or prefix.strip("/") == "file:":
        raise InputError(
            f"{SETTING}: {prefix[:8]!a}… is no prefix of addresses; write as https://host/owner, without a"
            " password, separated by commas"
        )
    return _spelled(prefix)


def _spelled(address: str) -> str:
    plain = address.rstrip("/")
    if scheme_of(plain) != "file":
        return plain
    return f"file://{Path(plain.removeprefix('file://')).resolve()}"
