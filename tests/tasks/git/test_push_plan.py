from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tasks.git.push_plan import ChangeKind, ModelChange, PushPlan, is_zero, plan_push
from tests.tasks.git.repositories import Source, git, make_source, model_files, pointer, set_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.records import Cell

INT8: dict[str, Any] = {"precisions": ["fp32", "int8"], "calibration": {"set": "../../sets/small", "method": "max"}}


def plan(source: Source, old: str | None, new: str, known: Callable[[Cell], str | None] = lambda _: None) -> PushPlan:
    with closing(source.opened()) as repository:
        return plan_push(repository, old, new, known)


def kinds(found: PushPlan) -> dict[str, str]:
    return {model.directory: model.kind.value for model in found.models}


@pytest.fixture
def shop(source: Source) -> tuple[Source, str]:
    """Three models, of which two share a calibration set; and its commit."""
    files = model_files("m/a", name="a") | model_files("m/b", name="b", **INT8) | model_files("m/c", name="c", **INT8)
    return source, source.commit(files | set_files("sets/small") | {"README.md": "x", "m/a/.hidden": "x"})


def to_convert(found: PushPlan) -> list[ModelChange]:
    return [model for model in found.models if model.needs_work]


def test_of_a_new_branch_all_models_are_new(shop: tuple[Source, str]) -> None:
    source, commit = shop
    found = plan(source, None, commit)
    assert kinds(found) == {"m/a": "new", "m/b": "new", "m/c": "new"}
    ids = [cell.cell.engine_id for cell in found.models[1].cells]
    assert ids == [f"b-cpu-{precision}@{found.models[1].version}" for precision in ("fp32", "int8")]
    assert [cell.reason for cell in found.models[1].cells] == ["new version", "new version"]
    assert found.unchanged == 0
    assert not found.forced


def test_what_a_target_cannot_do_is_left_out_and_named(source: Source) -> None:
    able = {**INT8, "targets": ["t4", "l4"], "precisions": ["int8", "fp8"]}
    (model,) = plan(source, None, source.commit(model_files("m/a", name="a", **able) | set_files("sets/small"))).models
    made = [(work.cell.target, work.cell.precision.value) for work in model.cells]
    assert made == [("t4", "int8"), ("l4", "int8"), ("l4", "fp8")]
    (line,) = model.left_out
    assert line.startswith("no fp8 for t4: FP8 takes compute capability 8.9 or later")


def test_fp8_alone_needs_its_calibration_set(source: Source) -> None:
    alone = {**INT8, "precisions": ["fp8"]}
    alone["calibration"] = {**INT8["calibration"], "method": "max"}
    (model,) = plan(source, None, source.commit(model_files("m/a", name="a", **alone))).models
    assert model.broken is not None
    assert "is no folder with a calibration set, which fp8 needs" in model.broken


CHANGES: dict[str, tuple[dict[str, str | bytes | None], dict[str, str]]] = {
    "a source": ({"m/a/model.py": "# other\n"}, {"m/a": "changed"}),
    "new source": ({"m/a/lib/x.py": ""}, {"m/a": "changed"}),
    "data": ({"m/b/validation.npz": pointer("2" * 64, 9)}, {"m/b": "changed"}),
    "a shared set": (set_files("sets/small", "2" * 64), {"m/b": "changed", "m/c": "changed"}),
    "a README": ({"README.md": "y", "m/README.md": "y"}, {}),
    "a hidden file": ({"m/a/.hidden": "y"}, {"m/a": "same"}),
    "a comment": ({"m/a/model.yaml": "# hello\n" + str(model_files("m/a", name="a")["m/a/model.yaml"])},
                  {"m/a": "same"}),
    "a name": (model_files("m/a", name="z"), {"m/a": "new"}),
    "a copy": (model_files("m/d", name="a"), {"m/a": "broken", "m/d": "broken"}),
    "a mistake": (model_files("m/a", name="a", targets=["x"]) | {"m/b/model.py": "#"},
                  {"m/a": "broken", "m/b": "changed"}),
    "the end of a model": (dict.fromkeys(model_files("m/a")), {"m/a": "removed"}),
    "a set that is gone": (dict.fromkeys(set_files("sets/small")), {"m/b": "broken", "m/c": "broken"}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_push_changes_what_depends_on_it_and_no_more(
    shop: tuple[Source, str], files: dict[str, str | bytes | None], expected: dict[str, str]
) -> None:
    source, old = shop
    source.write({"m/a/.hidden": "x"})
    if files.get("m/a/model.yaml", "") is None:
        files = files | {"m/a/.hidden": None}
    found = plan(source, old, source.commit(files))
    assert kinds(found) == expected
    kept = sum(kind != "removed" for kind in expected.values())
    assert found.unchanged == 3 + ("m/d" in expected) - ("removed" in expected.values()) - kept
    needs = {model.directory for model in to_convert(found)}
    assert needs == {directory for directory, kind in expected.items() if kind in {"new", "changed"}}


def test_paths_that_no_engine_depends_on_are_told(shop: tuple[Source, str]) -> None:
    source, old = shop
    found = plan(source, old, source.commit({"README.md": "y", "m/a/.hidden": "y", "m/b/model.py": "#"}))
    assert found.without_effect == ("README.md", "m/a/.hidden")
    assert found.models[1].paths == ("m/b/model.py",)
    assert found.models[1].reason == "changed: model.py"


def test_a_directory_that_moved_needs_no_work(shop: tuple[Source, str]) -> None:
    source, old = shop
    git(source.root, "mv", "m/b", "m/renamed")
    found = plan(source, old, source.commit())
    assert kinds(found) == {"m/renamed": "moved"}
    assert found.models[0].reason == "was at m/b, and is the same"
    assert not to_convert(found)


def test_namesakes_are_both_named_and_free_the_name_again(shop: tuple[Source, str]) -> None:
    source, _ = shop
    both = source.commit(model_files("m/d", name="a"))
    found = plan(source, None, both)
    texts = [model.broken for model in found.models if model.broken]
    assert texts == ["model.yaml: name: a is that of m/a and m/d; rename all but one"] * 2
    freed = plan(source, both, source.commit(dict.fromkeys(model_files("m/d"))))
    assert kinds(freed) == {"m/a": "new"}


def test_a_model_that_is_mended_is_converted(shop: tuple[Source, str]) -> None:
    source, _ = shop
    broken = source.commit({"m/a/model.yaml": "a: [1\n"})
    found = plan(source, broken, source.commit(model_files("m/a", name="a")))
    assert kinds(found) == {"m/a": "new"}
    assert to_convert(found)


def test_what_is_held_already_needs_no_work_and_says_why(shop: tuple[Source, str]) -> None:
    source, commit = shop
    held = {"fp32": "registered already", "int8": "converted before: verdict fail"}
    found = plan(source, None, commit, lambda cell: held[cell.precision.value] if cell.model == "b" else None)
    assert [(cell.needed, cell.reason) for cell in found.models[1].cells] == [
        (False, "registered already"),
        (False, "converted before: verdict fail"),
    ]
    assert [model.name for model in to_convert(found)] == ["a", "c"]


def test_a_model_yaml_that_became_unreadable_is_broken_and_not_removed(shop: tuple[Source, str]) -> None:
    source, old = shop
    assert kinds(plan(source, old, source.commit({"m/a/model.yaml": "a: [1\n"}))) == {"m/a": "broken"}


def test_a_forced_push_compares_the_two_trees(shop: tuple[Source, str]) -> None:
    source, base = shop
    old = source.commit({"m/a/model.py": "# old\n"})
    git(source.root, "reset", "--quiet", "--hard", base)
    new = source.commit({"m/b/model.py": "# new\n"})
    found = plan(source, old, new)
    assert found.forced
    assert kinds(found) == {"m/a": "changed", "m/b": "changed"}


BAD_SPECS: dict[str, tuple[str, bytes, str]] = {
    "no text": ("100644", b"\xff\xfe", "is no UTF-8"),
    "too large": ("100644", b"#" * ((1 << 20) + 1), "has more than 1 MiB"),
    "too deep": ("100644", b"a: " + b"[" * 100_000, "nested too deep"),
    "aliases of aliases": (
        "100644",
        b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)),
        "too large with its aliases",
    ),
    "an alias of itself": ("100644", b"a: &a [*a]\n", "write it out"),
    "in git LFS": ("100644", pointer("1" * 64, 9), "kept in git LFS"),
    "a link out": ("120000", b"../../../etc/passwd", "leaves the repository"),
    "an absolute link": ("120000", b"/etc/passwd", "out of the repository"),
    "a link to itself": ("120000", b"model.yaml", "in a circle"),
    "a link to nothing": ("120000", b"nothing.yaml", "is no file in the commit"),
    "a submodule": ("160000", b"", "is a submodule"),
}


@pytest.mark.parametrize(("mode", "content", "words"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_hostile_model_yaml_breaks_its_own_model_alone(source: Source, mode: str, content: bytes, words: str) -> None:
    good = {name.partition("/")[2]: str(text) for name, text in model_files("g", name="good").items()}
    entries = {name: f"100644 blob {source.blob(text.encode())}" for name, text in good.items()}
    about = f"160000 commit {'1' * 40}" if mode == "160000" else f"{mode} blob {source.blob(content)}"
    trees = {"good": source.tree(entries), "bad": source.tree(entries | {"model.yaml": about})}
    root = source.tree({name: f"040000 tree {oid}" for name, oid in trees.items()})
    found = plan(source, None, source.commit_tree(root))
    assert kinds(found) == {"bad": "broken", "good": "new"}
    assert words in str(found.models[0].broken)


def test_a_folder_called_model_yaml_is_no_model(source: Source) -> None:
    assert plan(source, None, source.commit({"a/model.yaml/x": "1", ".github/model.yaml": "x"})).models == ()


@pytest.mark.parametrize("set_path", ["../../../../../etc", "/etc", "../sets/link"])
def test_a_calibration_set_outside_of_the_repository_is_refused(source: Source, set_path: str) -> None:
    spec = {**INT8, "calibration": {"set": set_path}}
    source.write(model_files("m/a", **spec))
    (source.root / "m" / "sets").mkdir()
    (source.root / "m" / "sets" / "link").symlink_to("/etc")
    found = plan(source, None, source.commit())
    assert "model.yaml: calibration.set: " in str(found.models[0].broken)
    assert "repository" in str(found.models[0].broken)


def test_a_model_may_fill_the_whole_repository(tmp_path: Path) -> None:
    source = make_source(tmp_path / "one")
    found = plan(source, None, source.commit(model_files("")))
    assert kinds(found) == {"": ChangeKind.NEW.value}


def test_the_id_of_a_new_branch_is_all_zeros() -> None:
    assert is_zero("0" * 40)
    assert is_zero("0" * 64)
    assert not is_zero("0" * 12)
    assert not is_zero("1" * 40)


def test_a_policy_floor_makes_another_version_and_no_change_of_its_own(shop: tuple[Source, str]) -> None:
    source, commit = shop
    floor = "sha256:" + "f" * 64
    with closing(source.opened()) as repository:
        plain, under = (plan_push(repository, None, commit, lambda _: None, one) for one in (None, floor))
        assert plan_push(repository, commit, commit, lambda _: None, floor).models == ()
    assert plain == plan(source, None, commit)
    assert all(one.version != other.version for one, other in zip(plain.models, under.models, strict=True))
    other = source.commit({"m/a/.hidden": "y"})
    with closing(source.opened()) as repository:
        assert kinds(plan_push(repository, commit, other, lambda _: None, floor)) == {"m/a": "same"}
