"""Signed histories: an object each, which grows by a record at a time, by compare-and-swap.

Its records come the newest last, each a signed document that holds the digest of the one before, so that none can be
changed, dropped or put elsewhere. Of two who write at once one wins, and the other is told. Where an object grows long,
its older records go to a part of their own, named by its digest, which the object holds: a part is written once, and
may itself name the part before.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from tasks.errors import RefusedError
from tasks.objects.interface import ChangedError, ObjectStore
from tasks.registry.chained import UNNAMED, Chained, One, RegistryName
from tasks.registry.conditions import require_conditions
from tasks.registry.trust import TrustedHistory
from tasks.store.digests import canonical_json, digest_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tasks.registry.chained import Form, HistoryAddress
    from tasks.registry.signing import Signed, Signing

MOST_TRIES = 8
# Some thousand moves, or 15 of the longest texts. What a reader takes at most is 16 times as much.
LONGEST_BYTES = 1 << 20
FIRST_PAUSE_S = 0.02


@dataclass(frozen=True)
class History(Generic[One]):
    """A history as it was read: its records, oldest first, and the version of the object.

    `envelopes` are those of the object itself, and `earlier` the digest of the part with the records before them.
    """

    address: HistoryAddress[One]
    records: tuple[One, ...]
    tag: str | None
    envelopes: tuple[object, ...] = ()
    earlier: str | None = None


Address = TypeVar("Address", bound="HistoryAddress[Any]")
Read = TypeVar("Read", bound=History[Any])
Decided = TypeVar("Decided", bound="Chained | None")


class SignedHistories(Generic[Address, One, Read]):
    """The histories of one form in a registry. One object serves one reader: they may only ever get longer for it."""

    def __init__(
        self,
        objects: ObjectStore,
        signing: Signing,
        made: Callable[..., Read],
        tell: Callable[[Any], None],
        name: RegistryName = UNNAMED,
    ) -> None:
        """Read and write in `objects`; `made` is the class of what is read, and `tell` hears each record written."""
        self._objects, self._signing, self._made, self._tell = objects, signing, made, tell
        self._name = name
        self._parts: dict[str, tuple[object, ...]] = {}  # by digest, with the parts before
        # What the envelopes of the last history hold and who signed them: facts of their bytes, so that reading it
        # again opens only what is new. Whether they may be believed is asked of `TrustedHistory` at every reading.
        self._opened: dict[bytes, Signed] = {}
        self._final: dict[Address, One] = {}

    def read(self, address: Address) -> Read:
        """Read a history and check every record of it.

        Raises:
            RefusedError: it is damaged, a record was changed, dropped or comes from elsewhere, the newest is not signed
                by a trusted key where a trust root is set, or this reader saw records that are gone.
        """
        seen = self._final.get(address)  # before the object: another thread may see a longer history meanwhile
        found = self._objects.read(address.key)
        if found is None:
            TrustedHistory(address, self._name, seen).require_seen()
            return self._made(address, (), None)
        try:
            document = json.loads(found.content)
            envelopes, earlier = tuple(document[address.form.words]), document.get("earlier")
            records = self._believe(address, (*self._part(address, earlier), *envelopes), seen)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RefusedError(
                f"{_words(address)} is damaged; restore it from the bucket's versions or a backup"
            ) from None
        self._final[address] = records[-1]
        return self._made(address, records, found.tag, envelopes, earlier)

    def _part(self, address: Address, digest: str | None) -> tuple[object, ...]:
        """The envelopes of a part and of those before it, oldest first; none without a digest."""
        if digest is None:
            return ()
        if digest not in self._parts:
            found = self._objects.read(address.part_key(digest))
            if found is None or digest_bytes(found.content) != digest:
                raise RefusedError(
                    f"{_words(address)}: the part of its history with digest {digest} is missing or damaged; restore it"
                    " from the bucket's versions or a backup"
                )
            document = json.loads(found.content)
            earlier = self._part(address, document.get("earlier"))
            self._parts[digest] = (*earlier, *document[address.form.words])
        return self._parts[digest]

    def _believe(self, address: Address, envelopes: Iterable[object], seen: One | None) -> tuple[One, ...]:
        history: TrustedHistory[One] = TrustedHistory(address, self._name, seen)
        form: Form[One] = address.form
        opened = {}
        for number, sealed in enumerate(map(canonical_json, envelopes), start=1):
            what = f"{_words(address)}: {form.word} {number}"
            opened[sealed] = self._opened.get(sealed) or self._signing.unseal(form.word, sealed, what)
            history.add(opened[sealed])
        records = history.finish()
        self._opened = opened
        return records

    def write(
        self, address: Address, decide: Callable[[Read], Decided], read: Callable[[Address], Read] | None = None
    ) -> Decided:
        """Add the record that `decide` names for what is there, asked again when somebody else was first.

        `decide` returns None where nothing is left to do, and raises where the intent no longer holds. Whoever listens
        is told of the record once it is written. `read` reads the history in place of this reader, where that cannot
        believe its newest record; it has to believe the one that is added.

        Returns:
            The record that was written; None where nothing was left to do.

        Raises:
            RefusedError: see `read`, no reader would believe the record, or others were first again and again.
        """
        form: Form[One] = address.form
        for attempt in range(MOST_TRIES):
            history: Read = (read or self.read)(address)
            decided = decide(history)
            if decided is None:
                return decided
            record = decided.model_copy(update={"registry": self._name.text})
            sealed = json.loads(self._signing.seal(form.word, record.model_dump(mode="json")))
            envelopes = (*self._part(address, history.earlier), *history.envelopes, sealed)
            records = self._believe(address, envelopes, history.records[-1] if history.records else None)
            require_conditions(self._objects)
            try:
                self._objects.replace(address.key, self._content(address, history, sealed), history.tag)
            except ChangedError:
                # For longer each time, by chance, so that the losers of a race do not meet again.
                time.sleep(random.random() * FIRST_PAUSE_S * 2**attempt)  # noqa: S311 - no secret
                continue
            self._final[address] = records[-1]
            self._tell(record)
            return cast("Decided", record)
        raise RefusedError(
            f"{_words(address)} was moved by others {MOST_TRIES} times meanwhile; look at `{form.command}` and try"
            " again"
        )

    def _content(self, address: Address, history: Read, sealed: object) -> bytes:
        """The object with one more record; those before go to a part where it would grow too long."""
        words = address.form.words
        content = canonical_json(_document(words, history.earlier, (*history.envelopes, sealed)))
        if len(content) <= LONGEST_BYTES:
            return content
        part = canonical_json(_document(words, history.earlier, history.envelopes))
        digest = digest_bytes(part)
        self._objects.create(address.part_key(digest), part)
        return canonical_json(_document(words, digest, (sealed,)))


def _words(address: HistoryAddress[Any]) -> str:
    return f"{address.form.subject} {address}"


def _document(words: str, earlier: str | None, envelopes: tuple[object, ...]) -> dict[str, object]:
    return {words: envelopes} if earlier is None else {"earlier": earlier, words: envelopes}
