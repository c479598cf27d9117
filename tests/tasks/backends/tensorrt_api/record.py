"""Write down the Python API of TensorRT releases from NVIDIA's binding wheels, for tests to check calls against.

A developer runs this for a new release; no test and no CI job does. It needs gcc, nm and network, no GPU and nothing
of NVIDIA's libraries: each library that the binding module links to is replaced by an empty one that defines the
symbols it asks for, which is enough to import the module and read its pybind11 docstrings.

    python3.10 tests/tasks/backends/tensorrt_api/record.py            every release below
    python3.10 tests/tasks/backends/tensorrt_api/record.py 11.4.0     one of them

That of TensorRT-RTX stands beside them as `rtx-1.7.1`: no release of TensorRT, and of its own only in part.

Python 3.10 is the newest that TensorRT 8.6 has wheels for.

What a recording holds, `recordings/RELEASE.json`:

- `classes`: for each class its bases, its `methods` (a list of overloads each, as Python would write them after `def`,
  without `self`; what takes no keyword stands before a `/`), its properties by whether they can be read and set, its
  enum `members` or its `constants`. A class without `__init__` cannot be made by a caller.
- `functions` and `constants` of the module, and `element_types`, DataType's numpy names and sizes in bytes.
- `left_out`: the names that the module has and this recording does not describe.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path
from typing import Any

WHEELS = {
    "8.6.0": "tensorrt==8.6.0",  # 0.8 GB, since it holds the libraries as well; 8.6.1 adds the parser's flags
    "10.12.0": "tensorrt_cu12_bindings==10.12.0.36",
    "10.16.1": "tensorrt_cu13_bindings==10.16.1.11",
    "11.4.0": "tensorrt_cu13_bindings==11.4.0.106",
    "rtx-1.7.1": "tensorrt_rtx_cu12_bindings==1.7.1.116",
}
MODULES = ("tensorrt", "tensorrt_rtx")
RECORDINGS = Path(__file__).parent / "recordings"

# Described together with every class that their methods and properties take or return; for the network, whose add_*
# methods name a class for each kind of layer, without those.
CLASSES = """
Builder BuilderFlag DataType Dims EngineInspector ExecutionContextAllocationStrategy IBuilderConfig ICudaEngine
IExecutionContext IHostMemory ILayer ILogger INetworkDefinition IOptimizationProfile IPluginRegistry IProfiler
IProgressMonitor ITensor ITimingCache LayerInformationFormat LayerType Logger MemoryPoolType
NetworkDefinitionCreationFlag OnnxParser OnnxParserFlag ParserError Profiler ProfilingVerbosity Runtime
SerializationFlag TacticSource TempfileControlFlag TensorIOMode TensorLocation
IConstantLayer IConvolutionLayer IDeconvolutionLayer IScaleLayer Refitter WeightsRole
""".split()  # noqa: SIM905 - forty lines of one name each read worse
UNFOLLOWED = re.compile(r"INetworkDefinition\.add_")
SPECIAL_METHODS = ("__init__", "__bool__", "__len__", "__getitem__", "__setitem__", "__enter__", "__exit__")
TYPE_NAMES = {
    "collections.abc.Callable": "Callable",
    "collections.abc.Iterable": "Iterable",
    "collections.abc.Sequence": "Sequence",
    "typing.SupportsFloat": "float",
    "typing.SupportsInt": "int",
    "typing_extensions.Buffer": "Buffer",
    "typing_extensions.CapsuleType": "Capsule",
    "buffer": "Buffer",
    "capsule": "Capsule",
    "Dict": "dict",
    "List": "list",
    "Tuple": "tuple",
}


class ModuleReader:
    """Reads one imported binding module."""

    def __init__(self, module: types.ModuleType, binding: str) -> None:
        self.module, self.binding = module, binding
        self.found: set[str] = set()

    def read(self) -> dict[str, Any]:
        """Everything that a recording holds, but for the wheel's name."""
        public = {name: value for name, value in vars(self.module).items() if self._is_api(name, value)}
        functions = {name: self._function(name, value) for name, value in public.items() if inspect.isroutine(value)}
        classes = self._classes([name for name in CLASSES if name in public])
        return {
            "version": self.module.__version__,
            "functions": functions,
            "constants": {name: constant_name(value) for name, value in public.items() if is_enum_member(value)},
            "element_types": self._element_types(),
            "classes": classes,
            "left_out": sorted(n for n, value in public.items() if isinstance(value, type) and n not in classes),
        }

    @staticmethod
    def _is_api(name: str, value: object) -> bool:
        helpers = ("attr", "common_enter", "common_exit", "find_lib", "try_load", "value")
        return not (name.startswith("_") or name in helpers or isinstance(value, types.ModuleType))

    def _classes(self, names: list[str]) -> dict[str, Any]:
        read: dict[str, Any] = {}
        for name in names:
            self._add_class(name, read)
        for neighbour in sorted(self.found):
            self._add_class(neighbour, read)
        return read

    def _add_class(self, name: str, read: dict[str, Any]) -> None:
        value = self._class(name)
        if value is None or name in read:
            return
        read[name] = self._enum(value) if is_enum(value) else self._record(name, value)
        for base in read[name].get("bases", ()):
            self._add_class(base, read)
        for nested in read[name].get("classes", {}).values():
            self._add_class(nested, read)

    def _class(self, name: str) -> type | None:
        value: Any = self.module
        for part in name.split("."):
            value = getattr(value, part, None)
        return value if isinstance(value, type) else None

    @staticmethod
    def _enum(value: Any) -> dict[str, Any]:
        members = {name: int(member) for name, member in value.__members__.items()}
        return {"members": dict(sorted(members.items(), key=lambda item: item[1]))}

    def _record(self, name: str, value: type) -> dict[str, Any]:
        members = {key: item for key, item in vars(value).items() if key in SPECIAL_METHODS or not key.startswith("_")}
        methods = {key: self._methods(f"{name}.{key}", item) for key, item in members.items() if is_method(item)}
        static = {key for key, item in members.items() if isinstance(item, staticmethod)}
        properties = {key: item for key, item in members.items() if isinstance(item, property)}
        bases = [base for base in value.__bases__ if not base.__module__.startswith(("pybind11_", "builtins"))]
        return {
            "bases": [base.__qualname__ for base in bases],
            "methods": {key: methods[key] for key in methods if methods[key] and key not in static},
            "static_methods": {key: methods[key] for key in static},
            "readonly": {key: self._type_of(item) for key, item in properties.items() if not item.fset},
            "settable": {key: self._type_of(item) for key, item in properties.items() if item.fset and item.fget},
            "writeonly": {key: self._type_of(item) for key, item in properties.items() if not item.fget},
            "constants": {key: constant_name(item) for key, item in members.items() if is_enum_member(item)},
            "classes": {key: item.__qualname__ for key, item in members.items() if isinstance(item, type)},
        }

    def _function(self, name: str, value: Any) -> list[str]:
        return [written_signature(value)] if inspect.isfunction(value) else self._signatures(name, value.__doc__)

    def _methods(self, name: str, value: Any) -> list[str]:
        """A method's overloads; none for the __init__ of a class that has no constructor."""
        if inspect.isfunction(value):
            return [written_signature(value)]
        function = value.__func__ if isinstance(value, staticmethod) else value
        return self._signatures(name, function.__doc__) if type(function) is not WrapperType else []

    def _signatures(self, name: str, doc: str) -> list[str]:
        attribute = name.rpartition(".")[2]
        opening = re.compile(rf"(?:\d+\. )?{attribute}(\(.*\)) -> (.*)")
        found = [match for match in map(opening.fullmatch, doc.splitlines()) if match]
        signatures = [self._signature(arguments, returned, name) for arguments, returned in (m.groups() for m in found)]
        if not signatures:
            raise ValueError(f"{name}: no signature in its docstring: {doc[:200]!r}")
        return list(dict.fromkeys(signatures))

    def _signature(self, arguments: str, returned: str, name: str) -> str:
        written = [text for text in split_arguments(arguments[1:-1]) if not text.startswith("self:")]
        parts = [self._argument(text, name) for text in written]
        required = max((index for index, part in enumerate(parts) if " = " not in part), default=0)
        parts = [part.partition(" = ")[0] for part in parts[:required]] + parts[required:]  # pybind11 allows f(a=0, b)
        unnamed = [index for index, part in enumerate(parts) if re.match(r"arg\d+:", part)]
        if unnamed:
            parts.insert(unnamed[-1] + 1, "/")
        signature = f"({', '.join(parts)}) -> {self._clean(returned, name)}"
        ast.parse(f"def f{signature}: ...")
        return signature

    def _argument(self, text: str, name: str) -> str:
        if text.startswith("*"):
            return text
        argument, _, rest = text.partition(": ")
        annotation, equals, default = rest.partition(" = ")
        clean = self._clean(annotation, name)
        return f"{argument}: {clean}" + (f" = {clean_default(default, clean)}" if equals else "")

    def _type_of(self, value: property) -> str:
        """A property's type as its getter's docstring gives it, else its setter's; `object` where neither does."""
        returned = re.search(r" -> (.*)", value.fget.__doc__ or "") if value.fget else None
        if returned:
            return self._clean(returned[1], "")
        taken = re.match(r"\((.*)\) -> ", getattr(value.fset, "__doc__", None) or "")
        return self._clean(split_arguments(taken[1])[1].partition(": ")[2], "") if taken else "object"

    def _clean(self, written: str, context: str) -> str:
        """A type as the recordings write it: no module names, C++ names by their Python ones."""
        text = written.replace(f"{self.binding}.", "")
        text = re.sub(r"\b\w+(?:::\w+)+", self._python_name, text)
        for old, new in TYPE_NAMES.items():
            text = re.sub(rf"(?<![\w.]){re.escape(old)}\b", new, text)
        try:
            ast.parse(text, mode="eval")
        except SyntaxError:
            text = "object"
        if not UNFOLLOWED.match(context):
            self.found.update(re.findall(r"[A-Za-z_][\w.]*", text))
        return text

    def _python_name(self, cpp: re.Match[str]) -> str:
        """nvinfer1::v_1_0::IGpuAllocator is IGpuAllocator, nvonnxparser::IParserError is ParserError."""
        parts = cpp[0].split("::")
        tails = [".".join(parts[start:]) for start in range(1, len(parts))]
        candidates = [*tails, *(tail.removeprefix("I") for tail in tails)]
        return next((name for name in candidates if self._class(name)), parts[-1])

    def _element_types(self) -> dict[str, Any]:
        """What the module's own Python functions say of each DataType."""
        sys.modules["numpy"] = numpy = types.ModuleType("numpy")
        numpy.__getattr__ = lambda name: name.rstrip("_")

        def numpy_name(member: Any) -> str | None:
            try:
                return str(self.module.nptype(member))
            except TypeError:
                return None

        members = self.module.DataType.__members__
        return {name: {"numpy": numpy_name(item), "bytes": item.itemsize} for name, item in members.items()}


WrapperType = type(object.__init__)


def is_enum(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "__members__")


def is_enum_member(value: Any) -> bool:
    return is_enum(type(value))


def is_method(value: Any) -> bool:
    return inspect.isroutine(value) or type(value).__name__ == "instancemethod"


def constant_name(member: Any) -> str:
    return f"{type(member).__qualname__}.{member.name}"


def written_signature(function: Any) -> str:
    """The signature of one of the wheel's few functions in Python, without its first argument if it is a method's."""
    parameters = list(inspect.signature(function).parameters.values())
    bound = parameters[1:] if parameters[0].name == "this" else parameters
    return f"({', '.join(map(str, bound))}) -> object"


def split_arguments(text: str) -> list[str]:
    """Split at the commas that stand in no bracket and no string."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == "'"
        depth += 0 if quoted else (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def clean_default(text: str, annotation: str) -> str:
    """A default as Python writes it: `<Severity.WARNING: 2>` as a member of its type, objects as `...`."""
    member = re.fullmatch(r"<\w+\.(\w+): -?\d+>", text)
    if member:
        return f"{annotation}.{member[1]}"
    try:
        return repr(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return "..."


def command(*arguments: str | Path) -> str:
    """Run a program to its end and return what it printed."""
    program = shutil.which(arguments[0])
    if not program:
        sys.exit(f"{arguments[0]} is missing: install it")
    return subprocess.run([program, *arguments[1:]], check=True, text=True, stdout=subprocess.PIPE).stdout


def download(requirement: str, folder: Path) -> Path:
    """Fetch a wheel that fits the running Python."""
    command(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", "--dest", folder, requirement)  # fmt: skip
    return next(folder.glob("*.whl"))


def write_empty_libraries(module: Path) -> None:
    """Put a library beside the module for each of NVIDIA's that it links to, with every symbol that nobody else has."""
    here = ctypes.CDLL(None)
    wanted = re.findall(r" U ([^@\s]+)$", command("nm", "-D", "--undefined-only", module), re.MULTILINE)
    missing = [name for name in wanted if not hasattr(here, name)]
    source = module.with_name("empty.c")
    source.write_text("".join(f"char {name}[4096];\n" for name in missing))  # big enough for a vtable
    for library in re.findall(r"\[(lib(?:nv|tensorrt)[^\]]+)\]", command("readelf", "-d", module)):
        command("gcc", "-shared", "-fPIC", "-w", "-o", module.with_name(library), source, f"-Wl,-soname,{library}")


def record(release: str) -> None:
    """Download, import and read one release."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        wheel = download(WHEELS[release], folder)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.endswith((".so", ".py"))])
        module = next(path for path in folder.glob("*/*.so") if path.stem in MODULES)
        write_empty_libraries(module)
        api = json.loads(command(sys.executable, __file__, "--read", module.parent))
    target = RECORDINGS / f"{release}.json"
    target.write_text(render({"wheel": wheel.name, **api}))
    sys.stdout.write(f"{target.name}: {len(api['classes'])} classes, {target.stat().st_size:,} bytes\n")


def render(value: Any, depth: int = 0) -> str:
    """JSON with keys in order, empty entries left out, and one line for each innermost object."""
    if not isinstance(value, dict) or all(isinstance(item, int | float | str | None) for item in value.values()):
        return json.dumps(value)
    indent = " " * (depth + 1)
    filled = [(key, item) for key, item in sorted(value.items()) if item != {}]
    lines = [f"{indent}{json.dumps(key)}: {render(item, depth + 1)}" for key, item in filled]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}" + ("" if depth else "\n")


def main(arguments: list[str]) -> None:
    """Record the releases named, or all; or, as the child process, print what one unpacked package holds."""
    if arguments[:1] == ["--read"]:
        package = Path(arguments[1])
        sys.path.insert(0, str(package.parent))
        module = importlib.import_module(package.name)
        binding = next(path.stem for path in package.glob("*.so") if path.stem in MODULES)
        sys.stdout.write(json.dumps(ModuleReader(module, f"{package.name}.{binding}").read()))
        return
    for release in arguments or WHEELS:
        record(release)


if __name__ == "__main__":
    main(sys.argv[1:])
