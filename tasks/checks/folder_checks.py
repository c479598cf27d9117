"""Remarks on the files of a model directory: what counts as its source though it hardly is, and what is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.checks.remarks import Remark, good, warning
from tasks.model.model_directory import WEIGHTS_SUFFIX
from tasks.model.own_output import is_own_output
from tasks.samples.regular import is_special

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.model.model_directory import ModelDirectory

SUBJECT = "files"
WRITTEN_BESIDE = (".log", ".out", ".err", ".ipynb", ".tmp")
"""Endings of files that other programs write while a conversion runs."""
SHOWN = 3


def check_folder(directory: ModelDirectory) -> Iterator[Remark]:
    """The number of sources, and what is wrong with any.

    Raises:
        InputError: a link leads out of the directory, or a file is a pointer of git LFS.
    """
    sources = directory.source_paths()
    yield good(SUBJECT, f"{len(sources)} file{'s' * (len(sources) != 1)} that the module can read")
    beside = [name for name in sources if name.endswith(WRITTEN_BESIDE)]
    if beside:
        yield warning(
            SUBJECT,
            f"{_listed(beside)} counts as source: each change makes another version of the model, and one during a"
            " conversion ends it; keep it elsewhere, or under a name that begins with a dot",
        )
    unread = [name for name in sources if name.endswith(WEIGHTS_SUFFIX)]
    if unread and directory.spec.weights is None and ":" in str(directory.spec.source):
        yield warning(
            SUBJECT,
            f"{_listed(unread)} {'lies' if len(unread) == 1 else 'lie'} here and model.yaml names no weights, so that"
            f" the module keeps those that it was built with; if they are the model's, write weights: {unread[0]}",
        )
    own = [name for name in _others(directory) if is_own_output(directory.root / name)]
    if own:
        yield warning(
            SUBJECT,
            f"{_listed(own)} is what this command prints into, and is left out; the next conversion would count it as"
            " source, so write it elsewhere, or under a name that begins with a dot",
        )
    special = [name for name in _others(directory) if is_special(directory.root / name)]
    if special:
        yield warning(SUBJECT, f"{_listed(special)} is a pipe, a socket or a device: the module will not find it")


def _others(directory: ModelDirectory) -> list[str]:
    """Visible paths of the directory that are no folder, by their relative names."""
    found = (path for path in sorted(directory.root.rglob("[!.]*")) if path.exists() and not path.is_dir())
    return [path.relative_to(directory.root).as_posix() for path in found]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
