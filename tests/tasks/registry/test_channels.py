from __future__ import annotations

import functools
import json
import random
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError, RefusedError
from tasks.records import LONGEST_REASON
from tasks.registry.channels import Channel, Channels, move_before, next_move
from tasks.registry.history import LONGEST_BYTES
from tasks.registry.moves import ChannelAddress, ChannelName, Move, RegistryName
from tasks.registry.signing import Signing
from tasks.registry.survey import survey_registry
from tests.hardship import numbers
from tests.tasks.damage import ObjectFile
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.processes import race
from tests.tasks.registry.keys import signing_as, write_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tasks.conftest import Place

STAGING, PRODUCTION = (ChannelAddress("tiny", "cpu", name) for name in (ChannelName.STAGING, ChannelName.PRODUCTION))
PROCESSES, MOVES = numbers().processes, numbers().turns


def engine_id(number: int) -> str:
    return f"tiny-cpu-fp32@{number:012x}"


def move_to(channels: Channels, number: int, kind: str = "promote") -> Move:
    """Move staging to an engine, whatever it holds."""
    return channels.move(STAGING, lambda channel: to_engine(channel, number, kind))


def to_engine(channel: Channel, number: int, kind: Any = "promote", who: str = "ann") -> Move:
    return next_move(
        channel,
        kind=kind,
        engine_id=engine_id(number),
        manifest=f"sha256:{number:064x}",
        reason="because",
        override=None,
        who=who,
    )


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects()


@pytest.fixture
def channels(objects: MemoryObjects, tmp_path: Path) -> Channels:
    return Channels(objects, signing_as(tmp_path))


def test_a_channel_that_was_never_moved_points_nowhere(channels: Channels) -> None:
    assert channels.read(STAGING) == Channel(STAGING, (), None)
    assert channels.read(STAGING).current is None


def test_a_channel_points_at_the_last_engine_and_keeps_all_of_its_history(channels: Channels) -> None:
    for number in range(4):
        assert move_to(channels, number).engine_id == engine_id(number)
    read = channels.read(STAGING)
    moves = [one.move for one in read.moves]
    assert read.current == moves[-1]
    assert [move.number for move in moves] == [1, 2, 3, 4]
    assert [move.before for move in moves] == [None, *map(engine_id, range(3))]
    assert [move.previous for move in moves] == [None, *(one.digest for one in read.moves[:3])]
    assert all(one.signature.words.startswith("signed by ") for one in read.moves)


def test_the_channels_have_an_order() -> None:
    assert [name.before for name in ChannelName] == [
        None,
        ChannelName.CANDIDATE,
        ChannelName.STAGING,
        ChannelName.CANARY,
    ]


def test_channels_of_other_targets_models_and_names_are_others(channels: Channels) -> None:
    move_to(channels, 1)
    for address in (
        ChannelAddress("tiny", "t4", ChannelName.STAGING),
        ChannelAddress("other", "cpu", ChannelName.STAGING),
        PRODUCTION,
    ):
        assert channels.read(address).current is None


def test_nothing_to_do_moves_nothing(channels: Channels, objects: MemoryObjects) -> None:
    move_to(channels, 1)
    before = objects.read(STAGING.key)
    assert channels.move(STAGING, lambda _: None) is None
    assert objects.read(STAGING.key) == before


def test_an_intent_that_no_longer_holds_moves_nothing(channels: Channels) -> None:
    move_to(channels, 1)

    def refuse(_channel: Channel) -> Move:
        raise RefusedError("bob was first")

    with pytest.raises(RefusedError, match="bob was first"):
        channels.move(STAGING, refuse)
    assert len(channels.read(STAGING).moves) == 1


def test_who_was_first_is_seen_by_whoever_decides_again(channels: Channels) -> None:
    seen: list[str | None] = []

    def decide(channel: Channel) -> Move:
        seen.append(channel.current.engine_id if channel.current else None)
        if len(seen) < 3:
            move_to(channels, len(seen))  # somebody else, between our look and our move
        return to_engine(channel, 9)

    assert channels.move(STAGING, decide).number == 3
    assert seen == [None, engine_id(1), engine_id(2)]
    history = [one.move.engine_id for one in channels.read(STAGING).moves]
    assert history == [engine_id(1), engine_id(2), engine_id(9)]


def test_a_channel_that_others_never_stop_moving_is_given_up(channels: Channels) -> None:
    def decide(channel: Channel) -> Move:
        move_to(channels, len(channel.moves))
        return to_engine(channel, 99)

    with pytest.raises(RefusedError, match=r"moved by others 8 times meanwhile; look at `enginegate history`"):
        channels.move(STAGING, decide)
    assert len(channels.read(STAGING).moves) == 8


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [("pp", 0), ("ppp", 1), ("pppr", 0), ("pprp", 0), ("pppprr", 0), ("pprpp", 3)],
)
def test_a_rollback_undoes_promotions_one_after_the_other(channels: Channels, kinds: str, expected: int) -> None:
    for number, kind in enumerate(kinds):
        if kind == "p":
            move_to(channels, number)
        else:
            channels.move(STAGING, roll_back)
    assert move_before(channels.read(STAGING)).engine_id == engine_id(expected)


def roll_back(channel: Channel) -> Move:
    back = move_before(channel)
    return to_engine(channel, int(back.engine_id.partition("@")[2], 16), "rollback")


@pytest.mark.parametrize("kinds", ["", "p", "ppr", "pppprrr"])
def test_where_nothing_is_left_to_undo_a_rollback_is_refused(channels: Channels, kinds: str) -> None:
    for number, kind in enumerate(kinds):
        if kind == "p":
            move_to(channels, number)
        else:
            channels.move(STAGING, roll_back)
    with pytest.raises(InputError, match="channel staging of tiny for cpu: has no engine before the current one"):
        move_before(channels.read(STAGING))


def rewrite(objects: MemoryObjects, change: Callable[[list[Any]], object]) -> None:
    file = ObjectFile(objects, STAGING.key)
    content = json.loads(file.read_bytes())
    change(content["moves"])
    file.write_bytes(json.dumps(content).encode())


def swap(moves: list[Any]) -> None:
    moves[0], moves[1] = moves[1], moves[0]


TAMPERING: dict[str, Callable[[list[Any]], object]] = {
    "first dropped": lambda moves: moves.pop(0),
    "middle dropped": lambda moves: moves.pop(1),
    "all dropped": list.clear,
    "twice": lambda moves: moves.append(moves[-1]),
    "swapped": swap,
    "no envelope": lambda moves: moves.append(None),
}


@pytest.mark.parametrize("change", TAMPERING.values(), ids=TAMPERING)
def test_a_history_that_was_tampered_with_is_refused(
    channels: Channels, objects: MemoryObjects, change: Callable[[list[Any]], object]
) -> None:
    for number in range(3):
        move_to(channels, number)
    rewrite(objects, change)
    for reading in (channels, Channels(objects, Signing())):
        with pytest.raises(RefusedError, match="channel staging of tiny for cpu") as caught:
            reading.read(STAGING)
        assert caught.value.exit_code == 5


def test_a_channel_put_in_another_s_place_is_refused(channels: Channels, objects: MemoryObjects) -> None:
    move_to(channels, 1)
    ObjectFile(objects, STAGING.key).rename(ObjectFile(objects, PRODUCTION.key))
    with pytest.raises(RefusedError, match="channel production of tiny for cpu: move 1 does not follow"):
        channels.read(PRODUCTION)


def test_one_bit_flipped_anywhere_is_refused_or_changes_nothing(channels: Channels, objects: MemoryObjects) -> None:
    for number in range(2):
        move_to(channels, number)
    expected = [one.move for one in channels.read(STAGING).moves]
    file = ObjectFile(objects, STAGING.key)
    whole = file.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 4
        file.write_bytes(content)
        try:
            assert [one.move for one in channels.read(STAGING).moves] == expected
        except RefusedError:
            refused += 1
    # The newest move vouches for the signatures of those before it.
    assert refused > 0.7 * len(whole) / 3


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"moves": 1}', b'{"moves": {}}', b"\xff", b"[" * 99999],
    ids=lambda content: repr(content[:20]),
)
def test_a_damaged_channel_is_refused_with_the_remedy(
    channels: Channels, objects: MemoryObjects, content: bytes
) -> None:
    move_to(channels, 1)
    ObjectFile(objects, STAGING.key).write_bytes(content)
    with pytest.raises(RefusedError, match="restore it from the bucket's versions or a backup"):
        channels.read(STAGING)
    with pytest.raises(RefusedError, match="restore it"):
        move_to(channels, 2)


def test_a_move_that_another_key_signed_is_refused(objects: MemoryObjects, tmp_path: Path) -> None:
    move_to(Channels(objects, signing_as(tmp_path)), 1)
    signing_as(tmp_path, "eve")
    move_to(Channels(objects, Signing.from_files(tmp_path / "eve.key", None)), 2)
    with pytest.raises(RefusedError, match="move 2 is signed by keys that are not trusted"):
        Channels(objects, signing_as(tmp_path)).read(STAGING)


def test_a_history_goes_on_when_a_key_is_withdrawn_that_did_not_sign_the_newest_move(
    objects: MemoryObjects, tmp_path: Path
) -> None:
    for name in ("ann", "bob"):
        write_key(tmp_path / "trusted", name)
    keys = tmp_path / "trusted"
    for number, name in enumerate(("ann", "bob")):
        move_to(Channels(objects, Signing.from_files(keys / f"{name}.key", keys)), number)
    (keys / "ann.pem").unlink()
    bob = Channels(objects, Signing.from_files(keys / "bob.key", keys))
    first, second = (one.signature for one in bob.read(STAGING).moves)
    assert (first.verified, first.words) == ((), "signed by a key that is not trusted")
    assert second.words.startswith("signed by ")
    assert move_to(bob, 2).number == 3
    (keys / "bob.pem").rename(keys / "bob.withdrawn")
    write_key(keys, "eve")
    with pytest.raises(RefusedError, match="move 3 is signed by keys that are not trusted"):
        Channels(objects, Signing.from_files(keys / "eve.key", keys)).read(STAGING)


@pytest.mark.parametrize("changes", [{"engine_id": "../../x"}, {"when": "yesterday"}, {"who": ""}, {"before": "x"}])
def test_a_move_that_says_what_no_move_says_is_refused(channels: Channels, changes: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match="channel staging of tiny for cpu is damaged"):
        channels.move(STAGING, lambda channel: to_engine(channel, 1).model_copy(update=changes))
    assert channels.read(STAGING).moves == (), "and is not written"


def race_to(channels: Channels, worker: int) -> list[int]:
    """Move staging to one's own engines until it has had enough moves and one of them won; returns their numbers."""
    won: list[int] = []

    def decide(channel: Channel) -> Move | None:
        enough = won and len(channel.moves) >= MOVES  # on a busy machine one process may make all of MOVES
        return None if enough else to_engine(channel, worker * 1000 + len(won), who=str(worker))

    while True:
        try:
            move = channels.move(STAGING, decide)
        except RefusedError:
            time.sleep(random.random() * 0.3)  # noqa: S311 - no secret
            continue
        if move is None:
            return won
        won.append(move.number)


@pytest.mark.hardship
def test_of_many_moves_by_many_processes_none_is_lost_and_the_history_has_the_winners_in_order(
    shared_place: Place, tmp_path: Path
) -> None:
    unused = Channels(shared_place.open(), signing_as(tmp_path))  # each process makes connections of its own
    wins = [json.loads(text) for text in race([functools.partial(race_to, unused, n) for n in range(PROCESSES)])]
    history = Channels(shared_place.open(), signing_as(tmp_path)).read(STAGING).moves
    assert [one.move.number for one in history] == list(range(1, len(history) + 1))
    assert {one.move.number: int(one.move.who) for one in history} == {
        number: worker for worker, numbers in enumerate(wins) for number in numbers
    }
    assert sum(map(len, wins)) == len(history)  # nobody was told of a win that is not there
    assert MOVES <= len(history) < MOVES + PROCESSES
    assert all(wins)


def sign_three_moves(objects: MemoryObjects, folder: Path) -> Path:
    """Moves of staging by ann, bob and ann, after which bob's key is withdrawn; returns the folder of the keys."""
    for name in ("ann", "bob"):
        write_key(folder / "trusted", name)
    for number, name in enumerate(("ann", "bob", "ann")):
        move_to(reader_of(objects, folder, name), number)
    (folder / "trusted" / "bob.pem").unlink()
    return folder / "trusted"


def reader_of(objects: MemoryObjects, folder: Path, name: str = "ann") -> Channels:
    """Somebody who opens the registry now, and trusts the keys that are trusted now."""
    keys = folder / "trusted"
    return Channels(objects, Signing.from_files(keys / f"{name}.key", keys))


def test_a_withdrawn_key_s_move_is_refused_as_the_newest_by_a_reader_that_saw_it_below_another(
    objects: MemoryObjects, tmp_path: Path
) -> None:
    sign_three_moves(objects, tmp_path)
    warm = reader_of(objects, tmp_path)
    assert len(warm.read(STAGING).moves) == 3
    rewrite(objects, list.pop)
    for reader in (reader_of(objects, tmp_path), warm):
        with pytest.raises(RefusedError, match="move 2 is signed by keys that are not trusted"):
            reader.read(STAGING)
    with pytest.raises(RefusedError, match="move 2 is signed by keys that are not trusted"):
        move_to(warm, 9)
    with pytest.raises(RefusedError, match="move 2 is signed by keys that are not trusted"):
        reader_of(objects, tmp_path).read(STAGING)


def test_a_channel_that_got_shorter_is_refused_by_the_reader_that_saw_it_longer_and_by_no_other(
    objects: MemoryObjects, tmp_path: Path
) -> None:
    keys = sign_three_moves(objects, tmp_path)
    (keys / "bob.pem").write_bytes((keys / "ann.pem").read_bytes())  # nothing but the length is wrong
    warm = reader_of(objects, tmp_path)
    warm.read(STAGING)
    rewrite(objects, lambda moves: moves.__delitem__(slice(1, None)))
    with pytest.raises(RefusedError, match=r"rewound while this ran: move 3 is no longer in it \(1 moves\)"):
        warm.read(STAGING)
    with pytest.raises(RefusedError, match="rewound while this ran"):
        move_to(warm, 9)
    assert len(reader_of(objects, tmp_path).read(STAGING).moves) == 1
    objects.delete(STAGING.key)
    with pytest.raises(RefusedError, match=r"rewound while this ran: move 3 is no longer in it \(0 moves\)"):
        warm.read(STAGING)


def test_a_history_of_the_same_length_with_another_newest_move_is_rewound_as_well(
    objects: MemoryObjects, tmp_path: Path
) -> None:
    keys = sign_three_moves(objects, tmp_path)
    warm = reader_of(objects, tmp_path)
    warm.read(STAGING)
    rewrite(objects, lambda moves: moves.__delitem__(slice(1, None)))
    for number in (7, 8):
        move_to(reader_of(objects, tmp_path), number)
    assert keys.is_dir()
    with pytest.raises(RefusedError, match=r"rewound while this ran: move 3 is no longer in it \(3 moves\)"):
        warm.read(STAGING)


def test_a_reader_follows_a_channel_that_others_make_longer(objects: MemoryObjects, tmp_path: Path) -> None:
    sign_three_moves(objects, tmp_path)
    warm = reader_of(objects, tmp_path)
    for length in (3, 4, 5):
        assert len(warm.read(STAGING).moves) == length
        move_to(reader_of(objects, tmp_path), length)


def test_a_channel_copied_from_another_registry_is_refused_though_its_keys_are_trusted(
    objects: MemoryObjects, tmp_path: Path
) -> None:
    signing = signing_as(tmp_path)
    there = Channels(objects, signing, name=RegistryName("s3://there"))
    assert move_to(there, 1).registry == "s3://there"
    assert there.read(STAGING).current is not None
    with pytest.raises(RefusedError, match=r"move 1 was made in registry s3://there, and this one is s3://here"):
        Channels(objects, signing, name=RegistryName("s3://here")).read(STAGING)


def test_moves_without_a_registry_are_taken_unless_its_name_was_set(objects: MemoryObjects, tmp_path: Path) -> None:
    """An older release names none."""
    signing = signing_as(tmp_path)
    move_to(Channels(objects, signing), 1)
    strict = Channels(objects, signing, name=RegistryName("here", is_required=True))
    with pytest.raises(RefusedError, match="its newest move names no registry"):
        strict.read(STAGING)
    lenient = Channels(objects, signing, name=RegistryName("here"))
    assert [move_to(lenient, number).registry for number in (2, 3)] == ["here", "here"]
    assert [one.move.registry for one in strict.read(STAGING).moves] == [None, "here", "here"]


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel grows too long at its fourth move."""
    monkeypatch.setattr("tasks.registry.history.LONGEST_BYTES", 4_000)


@pytest.mark.usefixtures("_short")
def test_a_long_history_goes_to_parts_and_is_read_whole(
    channels: Channels, objects: MemoryObjects, tmp_path: Path
) -> None:
    for number in range(20):
        move_to(channels, number)
    sizes = {entry.key: entry.size_bytes for entry in objects.list("channels/")}
    assert len(sizes) > 4
    assert max(sizes.values()) < 6_000
    for reader in (channels, Channels(objects, signing_as(tmp_path))):
        history = reader.read(STAGING)
        assert [one.move.engine_id for one in history.moves] == [engine_id(number) for number in range(20)]
        assert move_before(history).engine_id == engine_id(18)
    assert survey_registry(objects).strangers == ()


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("damage", [None, b"", b'{"moves": []}'])
def test_a_part_that_is_missing_or_was_changed_is_refused(
    channels: Channels, objects: MemoryObjects, tmp_path: Path, damage: bytes | None
) -> None:
    for number in range(6):
        move_to(channels, number)
    (part,) = [entry.key for entry in objects.list("channels/") if entry.key != STAGING.key]
    objects.delete(part)
    if damage is not None:
        objects.create(part, damage)
    with pytest.raises(RefusedError, match=r"the part of its history with digest .* is missing or damaged; restore it"):
        Channels(objects, signing_as(tmp_path)).read(STAGING)


@pytest.mark.usefixtures("_short")
def test_who_is_killed_between_a_part_and_the_channel_lost_nothing(
    channels: Channels, objects: MemoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        move_to(channels, number)
    before = objects.read(STAGING.key)
    with monkeypatch.context() as patch:
        patch.setattr(objects, "replace", functools.partial(_die, KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            move_to(channels, 3)
    assert objects.read(STAGING.key) == before
    move_to(channels, 4)
    assert [one.move.engine_id for one in channels.read(STAGING).moves] == [engine_id(n) for n in (0, 1, 2, 4)]


def _die(kind: type[BaseException], *_: object) -> None:
    raise kind


def test_moves_of_the_longest_texts_never_outgrow_their_reader(channels: Channels, objects: MemoryObjects) -> None:
    """Of 266 such moves, one object had more than a reader takes."""
    longest = "\U0001f600" * LONGEST_REASON
    for number in range(40):
        channels.move(
            STAGING,
            lambda channel, number=number: to_engine(channel, number, who=longest).model_copy(
                update={"reason": longest, "override": longest}
            ),
        )
    assert max(entry.size_bytes for entry in objects.list("channels/")) <= LONGEST_BYTES
    assert len(channels.read(STAGING).moves) == 40


def test_a_move_that_is_dated_in_the_future_is_refused_also_before_it_is_written(channels: Channels) -> None:
    move_to(channels, 1)
    for days, words in ((2, "is dated 2.*, which is in the future"), (30_000, "is dated 21.*in the future")):
        when = (datetime.now(timezone.utc) + timedelta(days=days)).isoformat(timespec="seconds")
        with pytest.raises(RefusedError, match=words):
            channels.move(STAGING, lambda channel, when=when: to_engine(channel, 2).model_copy(update={"when": when}))
    assert len(channels.read(STAGING).moves) == 1
