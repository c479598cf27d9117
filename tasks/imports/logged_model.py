"""What a model of MLflow says of itself: signature, input example, configuration, and where its tokenizer lies."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.imports.logged_example import LoggedExample, read_example
from tasks.model.documents import read_yaml
from tasks.sources.mlflow_address import resolve
from tasks.sources.mlflow_model import DESCRIPTION, flavor_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PROCESSORS = ("tokenizer", "image_processor", "feature_extractor", "processor")


@dataclass(frozen=True)
class LoggedModel:
    """`checkpoint` and `processor` are folders of a model of Transformers, None of others.

    `tensors` are the inputs of its signature: `name`, where it has one, and `tensor-spec` with `dtype` and `shape`.
    `example` is its input example.
    """

    version: str | None
    checkpoint: Path | None = None
    processor: Path | None = None
    tensors: Sequence[Mapping[str, Any]] = field(default=())
    example: LoggedExample = field(default=LoggedExample())


def fetch_logged_model(address: str) -> LoggedModel:
    """Read the model that an address of MLflow is of now.

    Raises:
        InputError: no server is named, it does not answer, or has no such model.
    """
    found = resolve(address, "source")
    return read_logged_model(found.folder, f"source: {address}", found.version)


def read_logged_model(folder: Path, origin: str, version: str | None = None) -> LoggedModel:
    """Read a folder; what it does not say of its inputs, or in no form that is known, is left out.

    Raises:
        InputError: its description cannot be read, or says a flavor that is no source; `origin` begins the message.
    """
    flavor, data, _ = flavor_of(folder, origin)
    description = read_yaml(folder / DESCRIPTION)
    tensors = _tensors_of(description.get("signature"))
    if flavor != "transformers":
        example = read_example(folder, description.get("saved_input_example_info"))
        return LoggedModel(version, tensors=tensors, example=example)
    there = (folder / "components" / name for name in PROCESSORS)
    return LoggedModel(version, data, next((path for path in there if path.is_dir()), data), tensors)


def _tensors_of(signature: object) -> list[dict[str, Any]]:
    """The inputs, where all of them are tensors: texts and tables become tensors in ways that it does not say."""
    try:
        inputs = json.loads(signature["inputs"])  # type: ignore[index]  # what is no mapping is caught
        tensors = [each for each in inputs if each["type"] == "tensor" and each["tensor-spec"]["shape"]]
    except (TypeError, ValueError, LookupError):
        return []
    return tensors if len(tensors) == len(inputs) else []
