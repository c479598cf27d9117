"""A stand-in for the module `tensorrt` that knows one release's names and signatures, and refuses every other.

It is made from a recording of NVIDIA's bindings (`tensorrt_api/`). It computes nothing: a call that the release would
take returns something of the type that the release says it returns, a call that it would not take raises what pybind11
raises. So code that runs on the fakes of several releases uses no name, keyword or argument count that one of them
lacks.

    fake = FakeTensorrt("11.4.0")
    install(monkeypatch, fake)                                    # import tensorrt, and polygraphy, now find it
    fake.on("OnnxParser.parse", lambda self, *a, **k: False)      # what a method or function returns
    fake.on("ICudaEngine.num_io_tensors", 2)                      # what a property, or every call, gives
    fake.make("ICudaEngine", num_layers=3)                        # an instance that no caller could make
    fake.calls, fake.arguments("IBuilderConfig.set_flag")         # what was called, and set, in order
"""

from __future__ import annotations

import copy
import enum
import math
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polygraphy.backend.trt

from tests.tasks.backends.tensorrt_api.kinds import (
    BufferOnly,
    DimsMethods,
    FakeDataType,
    FakeEnum,
    Recorded,
    RecordedType,
    is_sequence,
    sizes_of,
    state_of,
)
from tests.tasks.backends.tensorrt_api.recording import parse_signature, read_recording, split_type

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Iterator

    import pytest


class Call(NamedTuple):
    """One call, or one property that was set."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


SERIALIZED = b"what a build gives"
MIXINS = {"IHostMemory": (BufferOnly,), "Dims": (DimsMethods,)}


class FakeTensorrt:
    """One release. `module` stands for `tensorrt`; what else is here is for tests."""

    def __init__(self, release: str) -> None:
        self.recording = read_recording(release)
        self.version: str = self.recording["version"]
        self.calls: list[Call] = []
        self.overloads: dict[str, list[str]] = dict(self.recording["functions"])
        self.properties: dict[str, str] = {}
        self.classes: dict[str, Any] = {}
        self._results: dict[str, Any] = dict(PROPERTIES)
        for name, entry in self.recording["classes"].items():
            self._add(name, entry)
        self.module = self._make_module()

    def on(self, name: str, result: Any) -> None:
        """Give a method, function or property a result: a value, or a function that takes what the caller passes."""
        self._require(name)
        self._results[name] = result

    def make(self, name: str, /, **values: Any) -> Any:
        """An instance of a recorded class with these properties, its constructor not called."""
        kind = self.classes[name]
        instance = kind.__new__(kind, *([SERIALIZED] if name == "IHostMemory" else []))
        for attribute, value in values.items():
            self._require(f"{name}.{attribute}")
            vars(instance)[attribute] = self._convert(value, self.properties[f"{name}.{attribute}"])
        return instance

    def memory(self, content: bytes) -> Any:
        """An IHostMemory that holds these bytes."""
        kind = self.classes["IHostMemory"]
        return kind.__new__(kind, content)

    def arguments(self, name: str) -> list[dict[str, Any]]:
        """The arguments of each call by their names, however they were passed; and each value that a property got."""
        self._require(name)
        found = [call for call in self.calls if call.name == name]
        if name in self.properties:
            return [{name.rpartition(".")[2]: call.args[0]} for call in found]
        return [self._bind(name, call.args, call.kwargs)[0] for call in found]

    def accepts(self, value: Any, annotation: str) -> bool:
        """Whether pybind11 would take a value for an argument of the type; what it cannot tell, it takes."""
        outer, inner = split_type(annotation)
        kind = self.classes.get(outer)
        if outer in {"Sequence", "Iterable", "list"}:
            return is_sequence(value) and all(self.accepts(item, part) for part in inner for item in value)
        if kind is None:
            return outer not in CHECKS or CHECKS[outer](value)
        if outer == "Dims":
            return isinstance(value, kind) or self.accepts(value, "Sequence[int]")
        return isinstance(value, kind) or (value is None and not issubclass(kind, enum.Enum))

    def default(self, annotation: str) -> Any:
        """Something of a type."""
        outer, inner = split_type(annotation)
        kind = self.classes.get(outer)
        if outer == "tuple":
            return tuple(self.default(part) for part in inner)
        if kind is None:
            return copy.copy(VALUES.get(outer))
        return next(iter(kind.__members__.values())) if issubclass(kind, enum.Enum) else self.make(outer)

    def _require(self, name: str) -> None:
        if name not in self.overloads and name not in self.properties:
            raise AttributeError(f"TensorRT {self.version}: {name} does not exist")

    def _add(self, name: str, entry: dict[str, Any]) -> None:
        if name in self.classes:
            return
        for needed in (*entry.get("bases", ()), *entry.get("classes", {}).values()):
            self._add(needed, self.recording["classes"][needed])
        self.classes[name] = self._enum(name, entry["members"]) if "members" in entry else self._class(name, entry)

    def _enum(self, name: str, members: dict[str, int]) -> Any:
        base = FakeDataType if name == "DataType" else FakeEnum
        kind: Any = base(name.rpartition(".")[2], members, module="tensorrt", qualname=name)
        type.__setattr__(kind, "_release", f"TensorRT {self.version}")
        type.__setattr__(kind, "_element_types", self.recording["element_types"])
        return kind

    def _class(self, name: str, entry: dict[str, Any]) -> Any:
        bases = tuple(self.classes[base] for base in entry.get("bases", ())) or (Recorded,)
        space: dict[str, Any] = {
            "__module__": "tensorrt",
            "__qualname__": name,
            "_release": f"TensorRT {self.version}",
            "_constructible": "__init__" in entry.get("methods", {}),
        }
        for method, overloads in entry.get("methods", {}).items():
            space[method] = self._method(f"{name}.{method}", overloads)
        for method, overloads in entry.get("static_methods", {}).items():
            space[method] = staticmethod(self._function(f"{name}.{method}", overloads))
        for access in ("readonly", "settable", "writeonly"):
            for attribute, annotation in entry.get(access, {}).items():
                space[attribute] = self._property(f"{name}.{attribute}", annotation, access)
        space |= {key: self.classes[nested] for key, nested in entry.get("classes", {}).items()}
        space |= {key: self._constant(member) for key, member in entry.get("constants", {}).items()}
        return RecordedType(name, (*MIXINS.get(name, ()), *bases), space)

    def _constant(self, name: str) -> Any:
        kind, _, member = name.rpartition(".")
        return getattr(self.classes[kind], member)

    def _make_module(self) -> ModuleType:
        module = ModuleType("tensorrt", "A fake.")
        module.__spec__ = ModuleSpec("tensorrt", None)
        space = {name: kind for name, kind in self.classes.items() if "." not in name}
        space |= {name: self._function(name, overloads) for name, overloads in self.recording["functions"].items()}
        space |= {name: self._constant(member) for name, member in self.recording["constants"].items()}
        space |= {name: self._left_out(name) for name in self.recording["left_out"]}

        def missing(name: str) -> Any:
            raise AttributeError(f"TensorRT {self.version}: {name} does not exist")

        vars(module).update(space, __version__=self.version, __getattr__=missing)
        return module

    def _left_out(self, name: str) -> Any:
        note = ": the recording only has the class's name; add it to CLASSES in tensorrt_api/record.py"
        return RecordedType(name, (Recorded,), {"_release": f"TensorRT {self.version}", "_note": note})

    def _method(self, name: str, overloads: list[str]) -> Callable[..., Any]:
        self.overloads[name] = overloads
        if not name.endswith(".__init__"):
            return lambda instance, *args, **kwargs: self._call(name, instance, args, kwargs)

        def construct(instance: Any, *args: Any, **kwargs: Any) -> None:
            self._call(name, instance, args, kwargs)
            given, _ = self._bind(name, args, kwargs)
            owner = name.removesuffix("__init__")
            vars(instance).update({key: value for key, value in given.items() if owner + key in self.properties})
            state_of(instance)["constructed"] = True

        return construct

    def _function(self, name: str, overloads: list[str]) -> Callable[..., Any]:
        self.overloads[name] = overloads
        return lambda *args, **kwargs: self._call(name, None, args, kwargs)

    def _property(self, name: str, annotation: str, access: str) -> property:
        self.properties[name] = annotation
        attribute = name.rpartition(".")[2]

        def read(instance: Any) -> Any:
            if attribute in vars(instance):
                return vars(instance)[attribute]
            if name in self._results:
                result = self._results[name]
                return self._convert(result(instance) if callable(result) else result, annotation)
            if not self._is_object(annotation):
                return self.default(annotation)
            return vars(instance).setdefault(attribute, None if access == "settable" else self.default(annotation))

        def write(instance: Any, value: Any) -> None:
            if not self.accepts(value, annotation):
                raise TypeError(f"TensorRT {self.version}: {name} is of type {annotation}, got {value!r}")
            self.calls.append(Call(name, (value,), {}))
            vars(instance)[attribute] = self._convert(value, annotation)

        return property(read if access != "writeonly" else None, write if access != "readonly" else None)

    def _is_object(self, annotation: str) -> bool:
        kind = self.classes.get(annotation)
        return kind is not None and annotation != "Dims" and not issubclass(kind, enum.Enum)

    def _bind(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The arguments by name and the type returned, of the first overload that takes them."""
        for text in self.overloads[name]:
            signature = parse_signature(text)
            try:
                bound = signature.bind(*args, **kwargs).arguments
            except TypeError:
                continue
            if all(self._fits(value, signature.parameters[key]) for key, value in bound.items()):
                return bound, signature.return_annotation
        given = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())])
        choices = "; ".join(self.overloads[name])
        raise TypeError(f"TensorRT {self.version}: {name} takes {choices}; called with ({given})")

    def _fits(self, value: Any, parameter: inspect.Parameter) -> bool:
        return (value is None and parameter.default is None) or self.accepts(value, parameter.annotation)

    def _call(self, name: str, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments, returned = self._bind(name, args, kwargs)
        self.calls.append(Call(name, args, kwargs))
        if name not in self._results:
            return self._convert(self._behave(name, instance, arguments, returned), returned)
        result = self._results[name]
        if callable(result):
            result = result(*([] if instance is None else [instance]), *args, **kwargs)
        return self._convert(result, returned)

    def _behave(self, name: str, instance: Any, arguments: dict[str, Any], returned: str) -> Any:
        """What a call does that no test has given a result."""
        owner, _, method = name.rpartition(".")
        behaviour = BEHAVIOURS.get(name) or BEHAVIOURS.get(method)
        if behaviour:
            return behaviour(self, instance, *arguments.values())
        verb, _, noun = method.partition("_")
        if noun == "flag":
            return self._switch_flag(instance, verb, *arguments.values())
        if verb in {"set", "get"} and {f"{owner}.set_{noun}", f"{owner}.get_{noun}"} <= self.overloads.keys():
            return self._remember(f"{owner}.get_{noun}", instance, list(arguments.values()), returned)
        return self.default(returned)

    @staticmethod
    def _switch_flag(instance: Any, verb: str, flag: Any) -> Any:
        bit, flags = 1 << int(flag), vars(instance).get("flags", 0)
        if verb == "get":
            return bool(flags & bit)
        vars(instance)["flags"] = flags | bit if verb == "set" else flags & ~bit
        return None

    def _remember(self, getter: str, instance: Any, values: list[Any], returned: str) -> Any:
        """get_x returns what set_x was given last: all of it where it returns a list, else the first."""
        signature = parse_signature(self.overloads[getter][0])
        count = len(signature.parameters)
        slot = (getter, *values[:count])
        if len(values) == count:
            return state_of(instance)[slot] if slot in state_of(instance) else self.default(returned)
        several = split_type(signature.return_annotation)[0] == "list"
        state_of(instance)[slot] = values[count:] if several else values[count]
        return self.default(returned)

    def _convert(self, value: Any, annotation: str) -> Any:
        """A test may give a tuple for Dims and bytes for IHostMemory; callers get the class."""
        outer, inner = split_type(annotation)
        if outer == "Dims" and is_sequence(value) and not isinstance(value, self.classes["Dims"]):
            return self.classes["Dims"](value)
        if outer == "IHostMemory" and type(value) is bytes:
            return self.memory(value)
        if outer == "list" and inner == ["Dims"]:
            return [self._convert(item, "Dims") for item in value]
        return value


def is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def create_network(fake: FakeTensorrt, _: Any, flags: int = 0) -> Any:
    remembered = {"flags": flags} if "INetworkDefinition.flags" in fake.properties else {}
    return fake.make("INetworkDefinition", **remembered)


def set_item(_: FakeTensorrt, instance: Any, index: int | slice, value: Any) -> None:
    sizes: list[Any] = list(sizes_of(instance))
    sizes[index] = value
    state_of(instance)["sizes"] = tuple(sizes)


def layer_of(fake: FakeTensorrt, network: Any, index: int) -> Any:
    if index >= network.num_layers:
        raise IndexError
    return fake.make("ILayer")


def enter(_: FakeTensorrt, instance: Any) -> Any:
    warnings.warn("Context managers for TensorRT types are deprecated.", DeprecationWarning, stacklevel=4)
    return instance


def set_sizes(_: FakeTensorrt, instance: Any, sizes: Any = ()) -> None:
    state_of(instance)["sizes"] = tuple(int(size) for size in sizes)


def nptype(fake: FakeTensorrt, _: None, data_type: Any) -> Any:
    name = fake.recording["element_types"][data_type.name]["numpy"]
    if name is None:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return np.dtype(name).type


CHECKS: dict[str, Callable[[Any], bool]] = {
    "Buffer": is_buffer,
    "Callable": callable,
    "None": lambda value: value is None,
    "bool": lambda value: value is None or hasattr(value, "__bool__"),
    "float": lambda value: hasattr(value, "__float__") or hasattr(value, "__index__"),
    "int": lambda value: hasattr(value, "__index__"),
    "slice": lambda value: isinstance(value, slice),
    "str": lambda value: isinstance(value, str | bytes),
    "tuple": lambda value: isinstance(value, tuple),
}
VALUES: dict[str, Any] = {
    "Buffer": b"",
    "Callable": print,
    "Capsule": object(),
    "Sequence": [],
    "bool": True,
    "float": 0.0,
    "int": 0,
    "list": [],
    "str": "",
}
PROPERTIES: dict[str, Any] = {
    "Dims.MAX_DIMS": 8,
    "IBuilderConfig.DLA_core": -1,
    "IHostMemory.nbytes": lambda memory: memoryview(memory).nbytes,
}
# Where more than a value of the right type is needed: by the method's name, or by its class and name.
BEHAVIOURS: dict[str, Callable[..., Any]] = {
    "Builder.create_network": create_network,
    "Dims.__getitem__": lambda _, instance, index: sizes_of(instance)[index],
    "Dims.__init__": set_sizes,
    "Dims.__len__": lambda _, instance: len(sizes_of(instance)),
    "Dims.__setitem__": set_item,
    "INetworkDefinition.__getitem__": layer_of,
    "INetworkDefinition.__len__": lambda _, instance: instance.num_layers,
    "__enter__": enter,
    "__len__": lambda *_: 1,  # what is empty counts as false
    "get_plugin_registry": lambda fake, _: fake.make("IPluginRegistry"),
    "nptype": nptype,
    "volume": lambda _, __, sizes: math.prod(sizes),
}


def install(patch: pytest.MonkeyPatch, fake: FakeTensorrt) -> None:
    """Let `import tensorrt` find the fake, and polygraphy, which keeps the module and a logger that it found before."""
    patch.setitem(sys.modules, "tensorrt", fake.module)
    patch.setattr(polygraphy.backend.trt.util, "TRT_LOGGER", None)
    for lazy in polygraphys_modules():
        patch.setitem(vars(lazy), "module", fake.module)


def polygraphys_modules() -> Iterator[Any]:
    """Each of polygraphy's own variables `trt`."""
    for name, module in list(sys.modules.items()):
        lazy = vars(module).get("trt") if name.startswith("polygraphy.") else None
        if type(lazy).__name__ == "LazyModule":
            yield lazy
