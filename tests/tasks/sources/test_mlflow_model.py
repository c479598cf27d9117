from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from flows.conversion.conversion_plan import plan_conversion, refuse_changes
from tasks.errors import InputError
from tasks.sources import SOURCES, outside_of, source_of
from tasks.sources.mlflow_model import MlflowModel
from tasks.torch_side.module_source import module_key
from tests.tasks.sources.checkpoints import loaded, tiny_bert, write_directory
from tests.tasks.tiny import SPEC

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import torch

class Scorer(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(bias))

    def forward(self, features):
        return torch.sigmoid(features.sum(1) + self.bias)
"""
FEATURES = torch.ones(2, 4)
TINY = {key: SPEC[key] for key in ("inputs", "dims", "outputs")}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models of MLflow, whose class is in their own code; this process forgets it."""
    import mlflow.pytorch  # noqa: PLC0415 - takes seconds

    root = tmp_path_factory.mktemp("models")
    (root / "own_scorer.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        from own_scorer import Scorer  # noqa: PLC0415 - it lies there now

        for name, bias in (("first", 0.0), ("second", 1.0)):
            mlflow.pytorch.save_model(
                Scorer(bias).eval(),
                root / name,
                code_paths=[str(root / "own_scorer.py")],
                pip_requirements=["torch"],
                serialization_format="pickle",
            )
    del sys.modules["own_scorer"]
    return {name: root / name for name in ("first", "second")}


@pytest.fixture
def registry(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an MLflow with two versions of `scorer`, the first being the champion."""
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    client = MlflowClient(tracking_uri=address)
    client.create_registered_model("scorer")
    for folder in models.values():
        client.create_model_version("scorer", source=str(folder))
    client.set_registered_model_alias("scorer", "champion", "1")
    return client


def bias_of(module: Any) -> float:
    return round(float(torch.logit(module(features=FEATURES))[0]) - 4, 3)


def test_a_folder_gives_what_was_logged_with_its_own_code(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["second"], tmp_path / "model" / "logged")
    directory = write_directory(tmp_path / "model", {"mlflow": "logged"}, **TINY)
    assert [type(kind) for kind in SOURCES if kind.takes(directory.spec.source)] == [MlflowModel]
    assert bias_of(loaded(directory, tmp_path / "out")) == 1
    assert set(outside_of(directory)) == {"transformers"}


def test_an_alias_is_resolved_to_a_version_and_a_digest_that_the_engines_version_holds(
    registry: Any, tmp_path: Path
) -> None:
    directory = write_directory(tmp_path / "model", {"mlflow": "models:/scorer@champion"}, **TINY)
    plan = plan_conversion(directory)
    first = outside_of(directory)
    assert first["version of models:/scorer@champion"] == "1"
    assert first["digest of models:/scorer@champion"].startswith("sha256:")
    assert bias_of(loaded(directory, tmp_path / "out")) == 0
    refuse_changes(plan, "model")
    registry.set_registered_model_alias("scorer", "champion", "2")
    assert plan_conversion(directory).version != plan.version
    assert bias_of(loaded(directory, tmp_path / "again")) == 1
    with pytest.raises(InputError, match=r"version of models:/scorer@champion changed while it was converted"):
        refuse_changes(plan, "model")


def test_an_alias_that_moves_between_key_and_copy_is_told_with_both_versions(registry: Any, tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "model", {"mlflow": "models:/scorer@champion"}, **TINY)
    source = source_of(directory.spec.source)
    key = source.key(directory)
    registry.set_registered_model_alias("scorer", "champion", "2")
    with pytest.raises(InputError, match="models:/scorer@champion moved from version 1 to 2 while it was read"):
        source.lay_out(directory, tmp_path / "out", key)


@pytest.mark.parametrize(
    "address", ["models:/scorer@nobody", "models:/scorer/7", "models:/other@champion", "runs:/1/m"]
)
def test_what_mlflow_does_not_have_is_told_with_the_address(registry: Any, tmp_path: Path, address: str) -> None:
    assert registry
    directory = write_directory(tmp_path / "model", {"mlflow": address}, **TINY)
    with pytest.raises(InputError, match=rf"model.yaml: source.mlflow: {address}: MLflow does not give it: "):
        outside_of(directory)


def test_an_address_without_a_server_is_told_what_to_set(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "model", {"mlflow": "models:/scorer/1"}, **TINY)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI names no server; set it"):
        outside_of(directory)


def test_a_model_of_flavor_transformers_is_loaded_as_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "logged"
    tiny_bert().save_pretrained(folder / "model")
    (folder / "MLmodel").write_text("flavors:\n  transformers:\n    model_binary: model\n")
    directory = write_directory(tmp_path / "model", {"mlflow": "logged"})
    assert type(loaded(directory, tmp_path / "out")).__name__ == "BertForSequenceClassification"
    assert set(outside_of(directory)) == {"transformers"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no MLmodel, so it is no model of MLflow"),
        ("flavors:\n  sklearn: {}\n", "MLmodel: flavors: sklearn; log the model by mlflow.pytorch.log_model"),
        ("flavors:\n  pytorch: {model_data: ../..}\n", "names ../.. for its data, which is no folder of it"),
    ],
)
def test_a_folder_that_is_no_model_of_a_known_flavor_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    folder = tmp_path / "model" / "logged"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "MLmodel").write_text(text)
    with pytest.raises(InputError, match=rf"source.mlflow: logged.*{words}"):
        module_key(write_directory(tmp_path / "model", {"mlflow": "logged"}, **TINY))
