"""The kinds of object that a fake release is made of: enums, classes of recorded attributes, and two odd ones."""

from __future__ import annotations

import enum
import inspect
from typing import Any


class FakeEnumType(enum.EnumMeta):
    """pybind11's enum class has members by name and by value; it is no collection."""

    __contains__ = __getitem__ = __iter__ = __len__ = __reversed__ = None

    def __getattr__(cls, name: str) -> Any:
        members = vars(cls).get("_member_map_", {})
        if name in members:  # Python 3.10 keeps members only there
            return members[name]
        raise AttributeError(f"{vars(cls).get('_release')}: {cls.__qualname__}.{name} does not exist")


class FakeEnum(enum.Enum, metaclass=FakeEnumType):
    """pybind11's enum: it converts to int and is none, so `1 << flag` is as wrong as in TensorRT."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


class FakeDataType(FakeEnum):
    @property
    def itemsize(self) -> float | None:
        sizes: dict[str, dict[str, Any]] = vars(type(self))["_element_types"]
        return sizes[self.name]["bytes"]


class RecordedType(type):
    """The type of every fake class, and of the classes that users derive from them."""

    def __getattr__(cls, name: str) -> Any:
        raise AttributeError(f"{cls._release}: {cls.__qualname__}.{name} does not exist{cls._note}")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not cls._constructible:
            raise TypeError(f"tensorrt.{cls.__qualname__}: No constructor defined!")
        instance = super().__call__(*args, **kwargs)
        if not state_of(instance).get("constructed"):
            raise TypeError(f"{cls.__qualname__}.__init__() of tensorrt must be called when overriding __init__")
        return instance


class Recorded(metaclass=RecordedType):
    """The base of the fake classes: an instance has the recorded attributes and no other."""

    _release, _note, _constructible = "TensorRT", "", False

    def __getattr__(self, name: str) -> Any:
        exists = inspect.getattr_static(type(self), name, None) is not None
        reason = "can only be set" if exists else "does not exist"
        raise AttributeError(f"{self._release}: {type(self).__qualname__}.{name} {reason}{self._note}")

    def __setattr__(self, name: str, value: Any) -> None:
        attribute = inspect.getattr_static(type(self), name, None)
        settable = isinstance(attribute, property) and attribute.fset is not None
        if (
            name != "__class__" and "_release" in vars(type(self)) and not settable
        ):  # classes that users derive take any attribute
            reason = "cannot be set" if attribute is not None else "does not exist"
            raise AttributeError(f"{self._release}: {type(self).__qualname__}.{name} {reason}{self._note}")
        object.__setattr__(self, name, value)


def state_of(instance: Any) -> dict[Any, Any]:
    state: dict[Any, Any] = vars(instance).setdefault("_state", {})
    return state


class BufferOnly(bytes):
    """IHostMemory can be read as a buffer, and in no other way that bytes can."""

    __slots__ = ()
    __add__ = __contains__ = __getitem__ = __iter__ = __mul__ = None
    __eq__, __hash__ = object.__eq__, object.__hash__
    __repr__ = __str__ = object.__repr__

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        raise TypeError("object of type 'tensorrt.IHostMemory' has no len()")

    def __getattribute__(self, name: str) -> Any:
        if hasattr(bytes, name) and not name.startswith("__"):
            raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute '{name}'")
        return super().__getattribute__(name)


class DimsMethods:
    """What Dims has beside its recorded methods: it compares with lists and tuples, and with nothing else."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | tuple | DimsMethods):
            raise TypeError(f"__eq__(): incompatible function arguments: {other!r}")
        return sizes_of(self) == tuple(other)

    def __repr__(self) -> str:
        return repr(sizes_of(self))


def sizes_of(instance: Any) -> tuple[int, ...]:
    sizes: tuple[int, ...] = state_of(instance).get("sizes", ())
    return sizes


def is_sequence(value: Any) -> bool:
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, str | bytes | dict)
