"""A small `triton_python_backend_utils` after the real one's names, and a router loaded as Triton loads it."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from queue import Queue
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tasks.serving.python_models import ROUTER_FILES
from tests.real_triton import write_route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import pytest

    Arrays = Mapping[str, np.ndarray[Any, Any]]
    Engine = Callable[[Arrays], Arrays]

VERSION = "stand_in_1"
FINAL = 1


class TritonModelException(Exception):  # noqa: N818 - the real name
    pass


@dataclass
class TritonError:
    text: str

    def message(self) -> str:
        return self.text


@dataclass
class Tensor:
    title: str
    array: np.ndarray[Any, Any]

    def name(self) -> str:
        return self.title

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self.array


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.tensors, self._error = output_tensors, error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError:
        assert self._error is not None
        return self._error

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        assert self._error is None, self._error
        return {one.title: one.array for one in self.tensors}


@dataclass
class Question:
    """What a client asks."""

    inputs: Sequence[Tensor]
    text: str = "{}"
    name: str = ""
    later: Queue[InferenceResponse] | None = None

    def parameters(self) -> str:
        return self.text

    def request_id(self) -> str:
        return self.name

    def get_response_sender(self) -> Any:
        if self.later is None:
            raise TritonModelException("get_response_sender function must be called only in decoupled mode")
        later = self.later

        def send(response: InferenceResponse, *, flags: int) -> None:
            assert flags == FINAL
            later.put(response)

        return type("Sender", (), {"send": staticmethod(send)})


def ask(parameters: Mapping[str, object] | None = None, name: str = "", **arrays: np.ndarray[Any, Any]) -> Question:
    """What a client asks of a server whose models may answer later, as Triton 2.51 lets them."""
    tensors = [Tensor(name, array) for name, array in arrays.items()]
    return Question(tensors, json.dumps(parameters or {}), name, Queue())


@dataclass
class Server:
    """The engines that can be called, what they were called with, and what was counted."""

    engines: dict[str, Engine] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, tuple[int, ...]]]] = field(default_factory=list)
    counted: Counter[tuple[str, tuple[tuple[str, str], ...]]] = field(default_factory=Counter)
    logged: list[str] = field(default_factory=list)
    on_call: Callable[[], object] = lambda: None

    def total(self, name: str, **labels: str) -> float:
        """What a metric says, over all series with these labels."""
        return sum(
            value
            for (found, series), value in self.counted.items()
            if found == name and labels.items() <= dict(series).items()
        )

    def module(self) -> ModuleType:
        found = ModuleType("triton_python_backend_utils")
        for one in (TritonModelException, TritonError, Tensor, InferenceResponse):
            setattr(found, one.__name__, one)
        names: dict[str, object] = {
            "InferenceRequest": self._request,
            "MetricFamily": self._metric_family(),
            "PreferredMemory": lambda *_: None,
            "TRITONSERVER_MEMORY_CPU": 0,
            "TRITONSERVER_RESPONSE_COMPLETE_FINAL": FINAL,
            "get_input_tensor_by_name": lambda asked, name: _named(asked.inputs, name),
            "get_output_tensor_by_name": lambda answer, name: _named(answer.tensors, name),
            "Logger": type("Logger", (), {"log_warn": self.logged.append, "log_error": self.logged.append}),
        }
        for name, value in names.items():
            setattr(found, name, value)
        return found

    def _request(self, *, model_name: str, inputs: Sequence[Tensor], **_: object) -> Any:
        def run() -> InferenceResponse:
            feeds = {one.title: one.array for one in inputs}
            self.calls.append((model_name, {name: array.shape for name, array in feeds.items()}))
            self.on_call()
            if model_name not in self.engines:
                return InferenceResponse(error=TritonError(f"Model {model_name} is not ready."))
            try:
                outputs = self.engines[model_name](feeds)
            except ValueError as error:
                return InferenceResponse(error=TritonError(str(error)))
            return InferenceResponse([Tensor(name, array) for name, array in outputs.items()])

        return type("InferenceRequest", (), {"exec": staticmethod(run)})

    def _metric_family(server) -> type:  # noqa: N805 - `self` is the family's
        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, *, name: str, description: str, kind: str) -> None:
                del description, kind
                self.name = name

            def Metric(self, labels: Mapping[str, str]) -> Any:  # noqa: N802 - the real name
                key = (self.name, tuple(labels.items()))

                class Metric:
                    def increment(self, number: float) -> None:
                        server.counted[key] += number  # type: ignore[assignment]

                    def set(self, value: float) -> None:
                        server.counted[key] = value  # type: ignore[assignment]

                return Metric()

        return MetricFamily


def _named(tensors: Sequence[Tensor], name: str) -> Tensor:
    return next(one for one in tensors if one.title == name)


def load(
    patch: pytest.MonkeyPatch, folder: Path, server: Server, files: Mapping[str, Path] = ROUTER_FILES
) -> ModuleType:
    """The module of a version folder, which is a package to Triton, with what lies beside it."""
    version = folder / VERSION
    version.mkdir(parents=True)
    for name, file in files.items():
        shutil.copy(file, version / name)
    for name in [name for name in sys.modules if name.partition(".")[0] == VERSION]:
        patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, "triton_python_backend_utils", server.module())
    patch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return importlib.import_module(f"{VERSION}.model")


def start_router(
    patch: pytest.MonkeyPatch, folder: Path, server: Server, route: Mapping[str, Any], **config: object
) -> Any:
    """A router that was initialised."""
    module = load(patch, folder, server)
    write_route(folder, route)
    router = module.TritonPythonModel()
    router.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(folder),
            "model_name": "scorer",
            "model_instance_name": "scorer_0_0",
        }
    )
    return router
