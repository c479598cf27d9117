"""TensorRT's log: into the child's log file, its errors kept for the message; and the loading of plugin libraries."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tasks.errors import StageError
from tasks.store.digests import digest_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MOST_ERRORS = 8
MOST_WARNINGS = 20
INCONSISTENT = "values are not self-consistent"
"""In a warning: an extent that dims allow makes shapes that do not fit each other, so that the engine fails there."""
_LOADED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""Digests of the plugin libraries that each TensorRT module here has."""


class TrtLog:
    """Prints what TensorRT says, from warnings on, and remembers its errors and warnings."""

    def __init__(self, trt: Any) -> None:
        kept: list[str] = []
        warned: dict[str, None] = {}
        listeners: list[Callable[[str], None]] = []

        class Logger(trt.ILogger):  # type: ignore[misc]  # its base has no type
            def log(self, severity: Any, msg: str) -> None:
                if severity in {trt.Logger.INTERNAL_ERROR, trt.Logger.ERROR}:
                    kept.append(msg)
                if severity == trt.Logger.WARNING:
                    warned[" ".join(msg.split())] = None
                if severity not in {trt.Logger.INFO, trt.Logger.VERBOSE}:
                    print(f"TensorRT: {msg}")  # noqa: T201 - a child's standard output is its log
                for listener in listeners:
                    listener(msg)

        self._errors, self._warned, self._listeners = kept, warned, listeners
        self.logger: Any = Logger()

    @property
    def has_errors(self) -> bool:
        """Whether TensorRT reported an error since the errors were last taken or cleared."""
        return bool(self._errors)

    def errors(self) -> str:
        """Take the errors: one text of the last ones."""
        found = "; ".join(self._errors[-MOST_ERRORS:]) or "it gave no reason"
        self.clear()
        return found

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far, each once, the first of them where there are many."""
        rest = len(self._warned) - MOST_WARNINGS
        more = (f"{rest} more in the log",) if rest > 0 else ()
        return (*list(self._warned)[:MOST_WARNINGS], *more)

    def refuse_inconsistent(self, file: str) -> None:
        """Fail where the builder has warned of an engine that fails at some of the shapes it was built for.

        Raises:
            StageError: it has; the warnings are in the message.
        """
        found = [text for text in self._warned if INCONSISTENT in text]
        if found:
            raise StageError(
                f"TensorRT says that {file} would fail at some extents that dims allows: {'; '.join(found)}. The"
                " exporter may have fixed an extent while it traced (export.exporter: dynamo fixes fewer), or dims"
                " allows what the module does not take; correct the one or narrow the other"
            )

    @contextmanager
    def heard_by(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Give a listener every message, however minor, until the work inside is done."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def clear(self) -> None:
        """Forget the errors so far."""
        self._errors.clear()


def load_plugins(trt: Any, log: TrtLog, libraries: Iterable[Path]) -> None:
    """Load plugin libraries: a library registers its plugins as it is loaded, which TensorRT refuses a second time.

    One that this process has loaded is left out, wherever it lies.

    Raises:
        StageError: one cannot be loaded.
    """
    here = _LOADED.setdefault(trt, set())
    for library in libraries:
        try:
            digest, _ = digest_file(library)
            if digest in here:
                continue
            loaded = trt.get_plugin_registry().load_library(str(library))
        except Exception as error:  # noqa: BLE001 - pybind11 has errors of its own
            raise StageError(f"build.plugins: {library.name} cannot be loaded: {error}") from None
        if loaded is None:
            raise StageError(f"build.plugins: {library.name} cannot be loaded: {log.errors()}")
        here.add(digest)
