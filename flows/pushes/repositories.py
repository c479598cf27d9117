"""Which repository a text means: a folder of this host, or an address of which a mirror is kept in the home folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import InputError
from tasks.git.mirror import MIRRORS, open_mirror
from tasks.git.remote_address import allowed_prefixes

if TYPE_CHECKING:
    from flows.session import Session


def repository_path(session: Session, text: str) -> Path:
    """The folder of a repository; an address is fetched first, where ENGINEGATE_REPOSITORIES allows it.

    That setting, if there is one, says of folders too which may be read: an event may come from anybody.

    Raises:
        InputError: it is neither a folder nor an address that may be fetched, or it is not there or not for us.
        StageError: fetching took too long.
    """
    if "\0" in text or text.startswith("-") or not text.strip():
        raise InputError(f"{text!r} is no repository; give a folder's absolute path or an address")
    folder = Path(text)
    if folder.is_absolute():
        if not folder.is_dir():
            raise InputError(f"{text}: is no folder on this host; correct it, or give an address")
        return _allowed(folder.resolve(), session)
    if "://" not in text:  # a worker's current folder is a temporary one
        raise InputError(f"{text}: is no absolute path and no address; give one of these")
    addresses = [each for each in allowed_prefixes(session.settings.repositories) if not each.startswith("/")]
    return open_mirror(session.settings.home, text, addresses)


def _allowed(folder: Path, session: Session) -> Path:
    """The folder, if no list says which ones may be read, or one does say so of it; a mirror is one of ours."""
    prefixes = allowed_prefixes(session.settings.repositories)
    places = [Path(each.removeprefix("file://")) for each in prefixes if each.startswith(("/", "file:///"))]
    places.append(session.settings.home / MIRRORS)
    if prefixes and not any(folder.is_relative_to(place.resolve()) for place in places):
        raise InputError(
            f"{folder}: lies in none of {', '.join(prefixes)}; if it may be read, add its folder to"
            " ENGINEGATE_REPOSITORIES"
        )
    return folder
