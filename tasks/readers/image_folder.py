"""A folder of images, or a folder of them for each label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.errors import InputError
from tasks.readers.interface import UNNAMED, InputHint, Reading, ReadRequest
from tasks.readers.labelled_files import find_files, grouped, holds_files

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
PROCESSOR_FILE = "preprocessor_config.json"
AXES = ("channels", "height", "width")


class ImageFolder:
    """Pixels by the folder's own processor; without one, RGB in [0, 1], channels first, at the size that they have."""

    formats = "a folder of images"

    def takes(self, path: Path) -> bool:
        """By suffix; see the interface."""
        return holds_files(path, IMAGE_SUFFIXES)

    def read(self, request: ReadRequest) -> Reading:
        """All images; see the interface."""
        found = find_files(request, IMAGE_SUFFIXES, "image")
        images = ((_open(path, request), path) for path in found.paths)
        folder, note = request.processor, ""
        if folder is not None and (folder / PROCESSOR_FILE).is_file():
            name, why = "pixel_values", "as the folder's image processor makes them"
            processor = _load_processor(folder)
            rows = (_processed(processor, image, path) for image, path in images)
        else:
            name, why = UNNAMED, "pixels over 255, RGB, channels first"
            note = "no image processor beside the model: pixels are RGB in [0, 1], channels first, not normalised"
            rows = (np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255) for image, _ in images)
        groups = grouped(rows, name, found.labels, request.folder)
        notes = (*found.notes, *((note,) if note else ()))
        table, own = ({}, False) if found.labels is None else (found.labels.table, found.labels.from_model)
        return Reading(groups, {name: InputHint(AXES, 0, why)}, notes, table, own)


def _open(path: Path, request: ReadRequest) -> Any:
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - few need it; matplotlib brings it

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        place = path.relative_to(request.path)
        why = "its bytes are none that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InputError(f"{request.origin}: {place} is no readable image ({why}); remove or replace it") from None


def _load_processor(folder: Path) -> Any:
    try:
        from transformers import AutoImageProcessor  # noqa: PLC0415 - seconds, and few need it

        loader: Any = AutoImageProcessor
        return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - what it raises depends on the processor
        first = str(error).strip().partition("\n")[0].rstrip(".")[:160]
        raise InputError(
            f"{folder.name}: {PROCESSOR_FILE} cannot be used ({first}); correct it, or bring arrays as .npz"
        ) from None


def _processed(processor: Any, image: Any, path: Path) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0], np.float32)
    except Exception as error:  # noqa: BLE001 - as above
        raise InputError(f"{path.name}: the folder's image processor raised {type(error).__name__}: {error}") from None
