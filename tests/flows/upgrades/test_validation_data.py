from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from flows.console import Reporter
from flows.session import Session
from flows.settings import Settings
from flows.upgrades.validation_data import find_data
from tasks.errors import InputError
from tests.tasks.memory_objects import MemoryObjects
from tests.tasks.shelf import Shelf
from tests.tasks.tiny import SMOKE, make_features, put_data, put_shards, tiny_spec, write_model_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineManifest
    from tasks.specs import ModelSpec

TWO = {name: {"dtype": "float32", "shape": ["batch", 4]} for name in ("weight", "age")}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(Settings(home=tmp_path / "home"), Reporter())


@pytest.fixture
def maker(tmp_path: Path) -> Session:
    """The host that converted the model: its store is another one."""
    return Session(Settings(home=tmp_path / "maker"), Reporter())


def two_inputs(maker: Session, session: Session) -> tuple[EngineManifest, ModelSpec]:
    """An engine of two inputs, which its manifest has in another order than model.yaml, and the model of that."""
    spec = tiny_spec(inputs=TWO)
    arrays = {name: make_features(SMOKE, seed) for seed, name in enumerate(TWO)}
    kept = put_shards(session.store, [{name: array[:4] for name, array in arrays.items()}])
    shelf = Shelf(MemoryObjects(), maker.stage_context())
    manifest = shelf.describe("fp16", data=put_data(maker.store, [arrays]), inputs=dict(sorted(spec.inputs.items())))
    smoke = manifest.smoke.model_copy(update={"inputs": kept})
    return manifest.model_copy(update={"smoke": smoke}), spec.model_copy(update={"inputs": manifest.inputs})


def test_data_in_the_store_are_taken_from_there(session: Session) -> None:
    data = put_data(session.store, [{"features": make_features(SMOKE)}])
    manifest = Shelf(MemoryObjects(), session.stage_context()).describe("fp16", data=data)
    assert find_data(session, manifest, tiny_spec(), ()).data == data


def test_inputs_are_taken_in_the_order_of_model_yaml_which_a_manifest_loses(
    maker: Session, session: Session, tmp_path: Path
) -> None:
    manifest, spec = two_inputs(maker, session)
    assert list(spec.inputs) != list(TWO)
    np.savez(tmp_path / "data.npz", **{name: make_features(SMOKE, seed) for seed, name in enumerate(TWO)})
    assert find_data(session, manifest, spec, [tmp_path / "data.npz"]).data == manifest.data


def test_of_several_places_the_one_that_holds_the_data_is_taken(
    maker: Session, session: Session, tmp_path: Path
) -> None:
    manifest, spec = two_inputs(maker, session)
    for name, first in {"other.npz": 7, "data.npz": 0}.items():
        np.savez(tmp_path / name, **{each: make_features(SMOKE, first + seed) for seed, each in enumerate(TWO)})
    elsewhere = write_model_folder(tmp_path / "elsewhere", name="another-model")
    given = [elsewhere, tmp_path / "other.npz", tmp_path / "data.npz"]
    with pytest.raises(InputError, match="no registry holds"):
        find_data(session, manifest, spec, given[:1])
    with pytest.raises(InputError, match="was compared on inputs"):
        find_data(session, manifest, spec, given[:2])
    assert find_data(session, manifest, spec, given).data == manifest.data
    assert find_data(session, manifest, spec, ()).data == manifest.data, "from then on the store has them"
