"""Makes a model directory of a source and of data, whole or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.errors import InputError
from tasks.imports.declared_inputs import Declared, read_declared
from tasks.imports.draft import BATCH, Draft, Guess
from tasks.imports.fresh_directory import fresh_directory, refuse_existing
from tasks.imports.input_guesses import InputGuesses, fixed_batch, guess_inputs
from tasks.imports.observation import Observation, observe_module
from tasks.imports.origin import CONFIG_FILE, Origin, find_origin
from tasks.imports.output_guesses import guess_outputs
from tasks.imports.split import Split, split_samples
from tasks.imports.synthetic import make_synthetic
from tasks.imports.written_data import draw_calibration, write_samples
from tasks.imports.yaml_text import render
from tasks.model.model_directory import SPEC_FILE, read_model_directory
from tasks.readers import read_data
from tasks.readers.interface import Reading, ReadRequest
from tasks.samples.data_spec import LABEL
from tasks.sources import outside_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.process.context import StageContext

SEED = 0
VALIDATION, CALIBRATION, LABELS_FILE = "validation", "calibration", "labels.json"
DECIDING = 300
MOST_SAMPLES = 10_000
"""Of more, so many are drawn: bounds on what differs are tight by then, and each is run on every engine."""
LABELS_SHOWN = 12


@dataclass(frozen=True)
class ImportRequest:
    """What is imported: the source, the data or the number of made-up samples, and where to."""

    source: str
    into: Path
    data: Path | None = None
    synthetic: int | None = None
    name: str | None = None
    processor: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    most: int = MOST_SAMPLES


@dataclass(frozen=True)
class Imported:
    """What was written: the directory, model.yaml's text, what is to be told, and how many samples there are.

    `outside` are digests and versions of what the source reads beyond the directory, as it was imported.
    """

    directory: Path
    name: str
    text: str
    notes: tuple[str, ...]
    files: tuple[str, ...]
    validation_samples: int
    calibration_samples: int
    outside: Mapping[str, str]


def import_model(context: StageContext, request: ImportRequest) -> Imported:
    """Write a complete model directory to the new folder `request.into`.

    The module is loaded and run in a child, on a few samples.

    Raises:
        InputError: the source, the data or the folder cannot be used; nothing is left behind.
    """
    refuse_existing(request.into)
    origin = find_origin(request.source, leave_out=request.data)
    declared = read_declared(origin)
    data_name = origin.name if request.data is None else request.data.name
    with context.store.scratch() as scratch, fresh_directory(request.into) as folder:
        reading = _read(request, origin, declared, scratch)
        guesses = guess_inputs(reading, declared, data_name)
        _copy(origin, folder)
        draft, guesses = _observe(context, folder, _Begun(request, origin, reading, guesses, data_name, declared))
        split = split_samples(guesses.groups, SEED)
        drawn = _write_data(folder, draft, split, reading, request)
        draft = _with_data(draft, drawn)
        (folder / SPEC_FILE).write_text(render(draft), encoding="utf-8")
        outside = outside_of(read_model_directory(folder))
        files = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))
    batch = draft.dims[BATCH].value
    notes = (*_told_example(origin, guesses), *reading.notes, *_told_batch(batch))
    notes += tuple(_told(split, drawn, made_up=request.data is None))
    return Imported(request.into, draft.name, render(draft), notes, files, split.kept, drawn, outside)


def refuse_moved(made: Imported) -> None:
    """Refuse to go on with a source that is another by now, since what was guessed holds of what was imported.

    Raises:
        InputError: naming what changed.
    """
    now = outside_of(read_model_directory(made.directory))
    for what in sorted(now.keys() | made.outside.keys(), reverse=True):  # a version before the digest of its files
        before = made.outside.get(what)
        if now.get(what) != before:
            raise InputError(
                f"{made.directory}: {what} was {before} when it was imported, and is {now.get(what)} now; import it"
                " again, or name a version in place of an alias"
            )


def _read(request: ImportRequest, origin: Origin, declared: Declared | None, scratch: Path) -> Reading:
    if request.data is None:
        return make_synthetic(declared, request.synthetic or 0, origin.longest, SEED, request.source)
    if request.processor is not None and not request.processor.is_dir():
        raise InputError(f"{request.processor}: is no folder; name the one of the tokenizer or feature extractor")
    return read_data(
        ReadRequest(
            path=request.data,
            processor=request.processor or origin.folder,
            columns=request.columns,
            left_out=request.left_out,
            label_numbers=origin.label_numbers,
            longest=origin.longest,
            most=request.most,
            folder=scratch,
        )
    )


def _copy(origin: Origin, folder: Path) -> None:
    for relative, path in origin.files.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


@dataclass(frozen=True)
class _Begun:
    """What is known before the module has run."""

    request: ImportRequest
    origin: Origin
    reading: Reading
    guesses: InputGuesses
    data_name: str
    declared: Declared | None

    def draft(self, outputs: Mapping[str, Guess]) -> Draft:
        """model.yaml without a calibration set."""
        made_up = self.request.data is None
        validation = {"data": VALIDATION, **({"synthetic": True} if made_up else {})}
        why = "made up by a seed: engines stay candidates" if made_up else f"from {self.data_name}"
        weights = self.origin.weights
        return Draft(
            name=self.request.name or self.origin.name,
            source=Guess(self.origin.written, self.origin.why),
            weights=None if weights is None else Guess(weights, "the only safetensors file beside the source"),
            inputs=self.guesses.inputs,
            dims=self.guesses.dims,
            outputs=outputs,
            targets=Guess(["cpu"], "this host; add the GPUs that serve, like a10g"),
            precisions=Guess(["fp16"], "int8 needs a calibration set, and there are too few samples for one"),
            calibration=None,
            validation=Guess(validation, why),
            head=("Written by enginegate import. Comments say why; correct at will.", _labels_in_words(self.reading)),
        )


def _observe(context: StageContext, folder: Path, begun: _Begun) -> tuple[Draft, InputGuesses]:
    """The draft with what the module says of its outputs, and of an input that had no name."""
    (folder / VALIDATION).mkdir()
    write_samples(folder / VALIDATION, begun.guesses.groups[:1])
    begun, seen = _seen(context, folder, begun)
    shutil.rmtree(folder / VALIDATION)
    origin, guesses = begun.origin, begun.guesses.renamed(seen.renamed)
    masks = {
        name: [group[name].shape[1] for group in seen.inputs]
        for name in guesses.inputs
        if "mask" in name and name in seen.inputs[0] and seen.inputs[0][name].ndim > 1
    }
    labels = [group[LABEL] for group in guesses.groups if LABEL in group]
    alike = bool(labels) and len({array.shape[1:] for array in labels}) == 1
    outputs = guess_outputs(
        seen.outputs, origin.config, masks, np.concatenate(labels) if alike else None, begun.request.source
    )
    return replace(begun, guesses=guesses).draft(outputs), guesses


def _seen(context: StageContext, folder: Path, begun: _Begun) -> tuple[_Begun, Observation]:
    """What the module gives; without `weights` in model.yaml where the source reads the file itself."""
    try:
        return _seen_at_sizes(context, folder, begun)
    except InputError as error:
        if begun.guesses.unlike:
            differing = "; ".join(begun.guesses.unlike)
            raise InputError(f"{error}; {differing}: bring data of the example's shape") from None
        if begun.origin.weights is None:
            raise
        return _seen_at_sizes(context, folder, replace(begun, origin=replace(begun.origin, weights=None)))


def _seen_at_sizes(context: StageContext, folder: Path, begun: _Begun) -> tuple[_Begun, Observation]:
    """What the module gives; where it takes one number of samples alone, with `dims.batch` saying so."""
    seen = _seen_once(context, folder, begun)
    if seen.only is None:
        return begun, seen
    only = fixed_batch(seen.only, "the module was run, and takes no other number")
    guesses = replace(begun.guesses, dims={**begun.guesses.dims, BATCH: only})
    begun = replace(begun, guesses=guesses)
    return begun, _seen_once(context, folder, begun)


def _seen_once(context: StageContext, folder: Path, begun: _Begun) -> Observation:
    names = (begun.declared and begun.declared.outputs) or ("unknown_output",)
    unknown = {name: Guess({"kind": "tensor"}, "not known yet") for name in names}
    (folder / SPEC_FILE).write_text(render(begun.draft(unknown)), encoding="utf-8")
    batch = begun.guesses.dims[BATCH].value
    return observe_module(
        context, folder, begun.guesses.groups, least=batch["min"], most=batch["max"], origin=begun.data_name
    )


def _write_data(folder: Path, draft: Draft, split: Split, reading: Reading, request: ImportRequest) -> int:
    """Write validation data, the calibration set and the table of labels; return the size of the set."""
    (folder / VALIDATION).mkdir()
    write_samples(folder / VALIDATION, split.validation)
    if reading.labels:
        table = json.dumps(dict(reading.labels), indent=2, ensure_ascii=False)
        (folder / LABELS_FILE).write_text(table + "\n", encoding="utf-8")
    if not split.pool:
        return 0
    source = f"Made up by seed {SEED}" if request.data is None else f"A part of {request.data.name}"
    inputs = {name: guess.value for name, guess in draft.inputs.items()}
    return draw_calibration(folder / CALIBRATION, split, inputs, name=f"{draft.name}"[:64], source=source, seed=SEED)


def _with_data(draft: Draft, drawn: int) -> Draft:
    if not drawn:
        return draft
    why = f"{drawn:,} samples that are not among the validation data; method auto tries all"
    return replace(
        draft,
        precisions=Guess(["fp16", "int8"], "fp32 is the reference's own, and seldom worth an engine"),
        calibration=Guess({"set": CALIBRATION, "method": "percentile"}, why),
    )


def _told_example(origin: Origin, guesses: InputGuesses) -> list[str]:
    unlike = [f"{each}: widen dims if serving sends that too" for each in guesses.unlike]
    return [origin.example.note, *unlike] if origin.example.note else unlike


def _told_batch(batch: Mapping[str, int]) -> list[str]:
    told = (
        f"the source takes {batch['max']} samples a call and no other number, and so do its engines: export it with a"
        " first axis that may vary to serve others"
    )
    return [told] if batch["min"] == batch["max"] else []


def _told(split: Split, drawn: int, *, made_up: bool) -> list[str]:
    notes = []
    kept = split.kept
    if not drawn:
        notes.append("too few different samples for a calibration set of 32: int8 is left out")
    if kept < DECIDING and not made_up:
        counted = f"{kept:,} sample{'' if kept == 1 else 's'}"
        notes.append(f"{counted} to validate on, and no default policy passes below {DECIDING}: bring more")
    return notes


def _labels_in_words(reading: Reading) -> str:
    if not reading.labels:
        return ""
    pairs = [f"{number}={text}" for text, number in list(reading.labels.items())[:LABELS_SHOWN]]
    more = "" if len(reading.labels) <= LABELS_SHOWN else ", …"
    why = f"by label2id of {CONFIG_FILE}" if reading.from_model else "numbered in the order of their names"
    return f"Labels, {why} ({LABELS_FILE} has them all): {', '.join(pairs)}{more}."
