"""The rules of trust alone: no key, no store, one attack a test."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tasks.errors import RefusedError
from tasks.registry.moves import ChannelAddress, ChannelName, Move, SignedMove
from tasks.registry.signing import Signature, Signed
from tasks.registry.trust import TrustedHistory
from tasks.store.digests import canonical_json

ADDRESS = ChannelAddress("tiny", "cpu", ChannelName.STAGING)
TRUSTED, WITHDRAWN, UNSIGNED = Signature(("a",), ("a",)), Signature(("b",), ()), Signature((), ())


def history_of(*signatures: Signature, **changes: Any) -> list[Signed]:
    """Moves of the channel, one for each signature; `changes` are of the last."""
    signed: list[Signed] = []
    for number, signature in enumerate(signatures, start=1):
        document = Move(
            model="tiny",
            target="cpu",
            channel=ChannelName.STAGING,
            number=number,
            previous=signed[-1].digest if signed else None,
            kind="promote",
            engine_id=f"tiny-cpu-fp32@{number:012x}",
            manifest=f"sha256:{number:064x}",
            before=None,
            reason="",
            who="ann",
            when="2026-11-20T12:00:00+00:00",
        ).model_dump(mode="json")
        document |= changes if number == len(signatures) else {}
        digest = f"sha256:{hashlib.sha256(canonical_json(document)).hexdigest()}"
        signed.append(Signed(document, digest, signature))
    return signed


def believe(signed: list[Signed], seen: SignedMove | None = None) -> tuple[SignedMove, ...]:
    history = TrustedHistory(ADDRESS, seen=seen)
    for one in signed:
        history.add(one)
    return history.finish()


def test_a_final_move_vouches_for_the_intermediate_ones_below_it() -> None:
    moves = believe(history_of(WITHDRAWN, UNSIGNED, TRUSTED))
    assert [one.signature for one in moves] == [WITHDRAWN, UNSIGNED, TRUSTED]


def test_where_no_trust_root_is_set_any_newest_move_is_final() -> None:
    assert len(believe(history_of(Signature(("b",), None), Signature((), None)))) == 2


@pytest.mark.parametrize(
    ("newest", "words"), [(WITHDRAWN, "signed by keys that are not trusted"), (UNSIGNED, "signed by nobody")]
)
def test_what_was_a_good_intermediate_move_is_refused_as_the_newest(newest: Signature, words: str) -> None:
    signed = history_of(TRUSTED, newest, TRUSTED)
    assert len(believe(signed)) == 3
    with pytest.raises(RefusedError, match=f"channel staging of tiny for cpu: move 2 is {words}"):
        believe(signed[:2])


@pytest.mark.parametrize(
    "changes",
    [{"model": "other"}, {"target": "t4"}, {"channel": "canary"}, {"number": 1}, {"number": 3}, {"previous": None}],
)
def test_a_move_from_elsewhere_is_refused_though_a_trusted_key_signed_it(changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="move 2 does not follow from the one before"):
        believe(history_of(TRUSTED, TRUSTED, **changes))


def test_a_document_that_is_no_move_is_refused() -> None:
    with pytest.raises(RefusedError, match="channel staging of tiny for cpu is damaged; restore it"):
        believe(history_of(TRUSTED, when="yesterday"))


def test_a_history_without_a_move_is_refused() -> None:
    with pytest.raises(RefusedError, match="has lost its history"):
        believe([])


def test_what_was_final_before_must_still_be_there() -> None:
    signed = history_of(TRUSTED, TRUSTED, TRUSTED)
    (*_, seen) = believe(signed[:2])
    assert len(believe(signed, seen)) == 3
    with pytest.raises(RefusedError, match=r"was rewound while this ran: move 2 is no longer in it \(1 moves\)"):
        believe(signed[:1], seen)
    with pytest.raises(RefusedError, match="was rewound while this ran: move 2"):
        believe(history_of(TRUSTED, TRUSTED, reason="another"), seen)
    with pytest.raises(RefusedError, match=r"\(0 moves\)"):
        TrustedHistory(ADDRESS, seen=seen).require_seen()
