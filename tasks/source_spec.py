"""What model.yaml's `source` says where it is more than `file.py:callable`: one kind of source, and its options."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AliasChoices, Discriminator, Field, Tag, model_validator

from tasks.declared import Declared

Written = Annotated[str, Field(min_length=1)]
KINDS = ("huggingface", "onnx", "pt2", "torchscript", "mlflow", "python")
CALLABLE = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
REGISTERED = ("models:/", "runs:/")
"""How the address of a model begins that MLflow has, and that is no folder."""
PYTORCH = "PyTorch"
FORMS = (
    "file.py:callable, or a mapping: {huggingface: FOLDER}, {onnx: FILE}, {pt2: FILE}, {torchscript: FILE},"
    " {mlflow: models:/NAME@ALIAS}, {python: package.module:callable}"
)


class SourceSpec(Declared):
    """One of `KINDS`, by its key: the folder or file (relative to the model directory), address or callable.

    `class` (here `auto_class`) is the class of Transformers that loads a Hugging Face folder, where it is not the one
    that its config.json names; with `trust_remote_code`, Python files of the folder are run.
    """

    of_later = (*KINDS, "auto_class", "trust_remote_code")

    huggingface: Written | None = None
    onnx: Written | None = None
    pt2: Written | None = None
    torchscript: Written | None = None
    mlflow: Written | None = None
    python: Annotated[str, Field(pattern=CALLABLE)] | None = None
    auto_class: Annotated[
        str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", validation_alias=AliasChoices("class", "auto_class"))
    ] = None
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> SourceSpec:
        named = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(named) != 1:
            raise ValueError(f"names {' and '.join(named) or 'no kind'}; name one of {', '.join(KINDS)}")
        if self.huggingface is None and (self.auto_class is not None or self.trust_remote_code):
            option = "class" if self.auto_class is not None else "trust_remote_code"
            raise ValueError(f"{option} belongs to huggingface, not {named[0]}; remove it")
        return self

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def value(self) -> str:
        """The folder, file, address or callable."""
        return str(getattr(self, self.kind))

    @property
    def path(self) -> str | None:
        """The folder or file, where it is one."""
        is_path = self.kind != "python" and not self.value.startswith(REGISTERED)
        return self.value if is_path else None

    @property
    def reference(self) -> str:
        """What the reference runs on."""
        return "the ONNX file in FP32 on ONNX Runtime" if self.kind == "onnx" else PYTORCH

    def __str__(self) -> str:
        return f"{self.kind}: {self.value}"


def _form(value: Any) -> str:
    return "=mapping" if isinstance(value, (dict, SourceSpec)) else "=text"


# A part that begins with = is a form of a field, and no part of its name: see `tasks.model.documents`.
AnySource = Annotated[
    Annotated[str, Field(pattern=r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$"), Tag("=text")]
    | Annotated[SourceSpec, Tag("=mapping")],
    Discriminator(_form),
]
