"""Which signed history may be believed: every rule of trust in one place, without reading or writing anything."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic

from pydantic import ValidationError

from tasks.errors import InputError, RefusedError, printable
from tasks.registry.chained import UNNAMED, Chained, HistoryAddress, One, RegistryName, holds_record
from tasks.registry.evidence import CLOCKS_APART

if TYPE_CHECKING:
    from tasks.registry.signing import Signed


class TrustedHistory(Generic[One]):
    """One history, of a channel or of rollouts, taken in record by record, oldest first.

    A record is *intermediate* while it is only known to belong where it lies. *Final* is said of the newest record of a
    whole history and of no other. The rules, in the order in which they are applied:

    1. Each record is a document that can be read. That its envelope is whole was seen when it was opened.
    2. It is a record of this registry and address, its number is its place, and it holds the digest of the one before.
       What its kind of history asks beside holds too. With that it is intermediate: who signed it is noted and not yet
       asked.
    3. `finish`: there is a record, since a history that ever began is never lost.
    4. The newest record is signed by a key that is trusted now. What it was before does not count: a record whose key
       was withdrawn is a good intermediate one below a final one, and refused once it comes to be the newest.
    5. It is not dated in the future, by more than clocks differ.
    6. That makes it final, and through the chain of digests it vouches for every record below it.
    7. The record that this reader took for final the last time is in the history, else somebody rewound it.

    Nothing of a history is handed out before the last rule.
    """

    def __init__(self, address: HistoryAddress[One], name: RegistryName = UNNAMED, seen: One | None = None) -> None:
        """Begin with no record.

        Args:
            address: of the history.
            name: of the registry that it is read from.
            seen: the record that this reader took for final the last time; None for the first.
        """
        self._address, self._name, self._seen = address, name, seen
        self._form = address.form
        self._what, self._word = f"{self._form.subject} {address}", self._form.word
        self._records: list[One] = []

    def add(self, signed: Signed) -> None:
        """Take in the next record, as an intermediate one.

        Raises:
            RefusedError: it is none, or does not follow from the one before.
        """
        try:
            record: Any = self._form.record.model_validate(signed.document)
        except ValidationError:
            raise RefusedError(f"{self._what} is damaged; restore it from the bucket's versions or a backup") from None
        number, last = len(self._records) + 1, self._records[-1] if self._records else None
        previous = None if last is None else last.digest
        if (record.number, record.previous) != (number, previous) or not self._is_own(record):
            raise RefusedError(
                f"{self._what}: {self._word} {number} does not follow from the one before; do not use it"
            )
        if self._name.text is not None and record.registry not in {None, self._name.text}:
            raise RefusedError(
                f"{self._what}: {self._word} {number} was made in registry {printable(str(record.registry))}, and this"
                f" one is {self._name.text}; it was copied here: do not use it. Where the registry itself moved, set"
                " ENGINEGATE_REGISTRY_NAME to its name"
            )
        fault = self._form.find_fault(None if last is None else last.record, record)
        if fault is not None:
            raise RefusedError(f"{self._what}: {self._word} {number} {fault}; do not use it")
        self._records.append(self._form.signed(record, signed.digest, signed.signature))

    def _is_own(self, record: Chained) -> bool:
        try:
            return record.address == self._address
        except InputError:  # its model or target is none
            return False

    def finish(self) -> tuple[One, ...]:
        """Take the newest record for final, and hand out the history.

        Raises:
            RefusedError: there is no record, no trusted key signed the newest, it names no registry where it has to or
                is dated in the future, or the history was rewound.
        """
        if not self._records:
            raise RefusedError(f"{self._what} has lost its history; restore it from the bucket's versions or a backup")
        if self._name.is_required and self._records[-1].record.registry is None:
            raise RefusedError(
                f"{self._what}: its newest {self._word} names no registry, and ENGINEGATE_REGISTRY_NAME is set;"
                " `enginegate resign` it"
            )
        self._records[-1].signature.require_trusted(f"{self._what}: {self._word} {len(self._records)}")
        self._require_past(self._records[-1].record)
        self.require_seen()
        return tuple(self._records)

    def _require_past(self, record: Chained) -> None:
        if datetime.fromisoformat(record.when) - datetime.now(timezone.utc) > CLOCKS_APART:
            raise RefusedError(
                f"{self._what}: {self._word} {record.number} is dated {record.when}, which is in the future; find out"
                " who signed it, and see that this host's clock is right"
            )

    def require_seen(self) -> None:
        """Check that the record which was final before is there; also of a history that has no object any more.

        Raises:
            RefusedError: the history was rewound.
        """
        seen = self._seen
        if seen is not None and not holds_record(self._records, seen.record.number, seen.digest):
            raise RefusedError(
                f"{self._what}: its history was rewound while this ran: {self._word} {seen.record.number} is no longer"
                f" in it ({len(self._records)} {self._form.words}); find out who did that"
            )
