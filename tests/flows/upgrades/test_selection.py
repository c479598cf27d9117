from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flows.upgrades import selection
from flows.upgrades.selection import choose_engines, target_to_build
from tasks.backends.gpu import Gpu
from tasks.errors import InputError, RefusedError, StageError
from tasks.registry.moves import ChannelName
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.process.context import StageContext

PRODUCTION = ChannelName.PRODUCTION


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Let this host have a GPU of a name, or none."""

    def give(name: str | None) -> None:
        def find() -> Gpu:
            if name is None:
                raise StageError("no GPU")
            return Gpu(name=name, compute_capability="9.0", driver="550.54", cuda="12.4", mig=None, uuid="GPU-1")

        monkeypatch.setattr(selection, "find_gpu", find)

    return give


@pytest.fixture
def shelf(context: StageContext) -> Shelf:
    return Shelf(MemoryObjects(), context)


@pytest.mark.parametrize(
    ("gpu", "wanted", "target"),
    [
        (None, None, "cpu"),
        (None, "cpu", "cpu"),
        ("NVIDIA H200", None, "h200"),
        ("NVIDIA H200", "cpu", "cpu"),
        ("NVIDIA H200", "h200", "h200"),
        ("NVIDIA GeForce RTX 4090", None, "cpu"),
    ],
)
def test_a_target_is_what_is_wanted_or_what_is_here(
    has: Callable[[str | None], None], gpu: str | None, wanted: str | None, target: str
) -> None:
    has(gpu)
    assert target_to_build(wanted) == target


@pytest.mark.parametrize(
    ("gpu", "wanted", "told"),
    [
        (None, "h200", "no GPU that is a target.*choose --target cpu"),
        ("NVIDIA H200", "t4", "this host has target h200.*choose --target h200"),
        (None, "rtx", "is no target"),
    ],
)
def test_a_target_of_another_host_is_refused(
    has: Callable[[str | None], None], gpu: str | None, wanted: str, told: str
) -> None:
    has(gpu)
    with pytest.raises(InputError, match=told):
        target_to_build(wanted)


def test_what_a_channel_points_at_is_chosen_and_of_other_models_nothing(shelf: Shelf) -> None:
    engine = shelf.register("fp32")
    shelf.point("production", engine)
    (chosen,) = choose_engines(shelf.registry, [], PRODUCTION, "cpu")
    assert chosen.engine is not None
    assert chosen.engine.digest == engine.digest
    named = choose_engines(shelf.registry, ["tiny", "other", "tiny"], PRODUCTION, "cpu")
    assert [one.address.model for one in named] == ["tiny", "other"]
    assert isinstance(named[1].fault, InputError)
    for channel, target in ((ChannelName.CANARY, "cpu"), (PRODUCTION, "t4")):
        with pytest.raises(InputError, match="no model's"):
            choose_engines(shelf.registry, [], channel, target)


def test_a_damaged_manifest_or_channel_is_a_fault_of_its_own(shelf: Shelf) -> None:
    engine = shelf.register("fp32")
    shelf.point("production", engine)
    shelf.replace_manifest(engine.manifest, who="somebody else")
    (chosen,) = choose_engines(shelf.reopened().registry, [], PRODUCTION, "cpu")
    assert isinstance(chosen.fault, RefusedError)
    shelf.channel_file("production").write_bytes(b"{}")
    (chosen,) = choose_engines(shelf.reopened().registry, [], PRODUCTION, "cpu")
    assert isinstance(chosen.fault, RefusedError)
