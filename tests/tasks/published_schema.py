"""Holds a document against the published models of KServe and Kubernetes, which lie unpacked in `.triton/wheels`.

Both packages are made of the API's OpenAPI schema: each model says its fields' names, types, and which are required.
They are read as text: to import KServe's would need Pandas, gRPC and 30 more.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Any, NamedTuple

from tasks.serving.triton_server import BUILT

PACKAGES = ("kserve/models", "kubernetes/client/models")
SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "object": (object,),
    "ResourceQuantity": (str, int),
}


class Model(NamedTuple):
    """The type of each field, by its name in YAML; and the fields that are required."""

    types: dict[str, str]
    required: frozenset[str]


@cache
def read_model(name: str) -> Model:
    file = "_".join(re.findall(r"V\d+(?:(?:alpha|beta)\d+)?|[A-Z]+(?![a-z])|[A-Z][a-z0-9]*", name)).lower() + ".py"
    found = [path for package in PACKAGES for path in (BUILT / "wheels" / package).glob("*.py") if path.name == file]
    assert len(found) >= 1, f"{name}: no {file}"
    text = found[0].read_text()
    types, names = (
        ast.literal_eval(re.search(rf"    {table} = (\{{.*?\}})", text, re.DOTALL)[1])  # type: ignore[index]
        for table in ("openapi_types", "attribute_map")
    )
    required = re.findall(r"Invalid value for `(\w+)`, must not be `None`", text)
    return Model({names[key]: kind for key, kind in types.items()}, frozenset(names[key] for key in required))


def find_faults(document: Any, kind: str, place: str = "") -> list[str]:
    """What a document has that the schema has not, or lacks; empty where it is valid."""
    if wrapped := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(document, list):
            return [f"{place}: is no list"]
        return [fault for i, each in enumerate(document) for fault in find_faults(each, wrapped[1], f"{place}[{i}]")]
    if kind in SCALARS:
        wrong = not isinstance(document, SCALARS[kind]) or (isinstance(document, bool) and kind in {"int", "float"})
        return [f"{place}: {document!r} is no {kind}"] if wrong else []
    if not isinstance(document, dict):
        return [f"{place}: is no {kind}"]
    return _faults_of_map(document, kind, place)


def _faults_of_map(document: dict[Any, Any], kind: str, place: str) -> list[str]:
    if wrapped := re.fullmatch(r"dict\(str, (.*)\)", kind):
        faults = [f"{place}: {key!r} is no name" for key in document if not isinstance(key, str)]
        types = dict.fromkeys(document, wrapped[1])
    else:
        types, required = read_model(kind)
        faults = [f"{place}.{key}: unknown" for key in document if key not in types]
        faults += [f"{place}.{key}: missing" for key in required if key not in document]
    known = [key for key in document if key in types]
    return faults + [fault for key in known for fault in find_faults(document[key], types[key], f"{place}.{key}")]
