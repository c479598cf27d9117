"""GitHub's workflows, by two checkers that need no network, and the shell in them, run against a fake of each tool."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tasks.git.repositories import Source, git, make_source

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
CONVERT = yaml.safe_load((WORKFLOWS / "convert.yml").read_text())
STEPS = {step.get("name", step.get("uses")): step for step in CONVERT["jobs"]["convert"]["steps"]}


ZIZMOR = ("zizmor", "--offline", "--no-config", "--no-exit-codes", "--format", "json")


def checked(*command: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(command[0])
    return subprocess.run(
        [str(program), *command[1:]], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
    )


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    found = checked(*ZIZMOR, str(WORKFLOWS))
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == []


def test_zizmor_would_find_a_push_that_reaches_a_script(tmp_path: Path) -> None:
    text = (WORKFLOWS / "convert.yml").read_text()
    assert "cat plan.txt\n" in text
    (tmp_path / "bad.yml").write_text(text.replace("cat plan.txt\n", "cat plan.txt ${{ github.head_ref }}\n"))
    found = checked(
        "zizmor", "--offline", "--no-config", "--no-exit-codes", "--format", "json", str(tmp_path / "bad.yml")
    )
    assert [finding["ident"] for finding in json.loads(found.stdout)] == ["template-injection"]


def test_workflows_meet_the_published_schema() -> None:
    files = [str(path) for path in sorted(WORKFLOWS.glob("*.yml"))]
    assert len(files) >= 2
    found = checked("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files)
    assert found.returncode == 0, found.stdout


def test_every_action_is_pinned_by_its_commit_and_alike() -> None:
    used = [
        line
        for path in WORKFLOWS.glob("*.yml")
        for line in re.findall(r"^ +- uses: (.*)$", path.read_text(), re.MULTILINE)
    ]
    assert used
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v[\d.]+", line) for line in used)
    names = {line.partition("@")[0] for line in used}
    assert len(set(used)) == len(names), "one version of each"


def test_no_expression_stands_in_a_script() -> None:
    for step in STEPS.values():
        assert "${{" not in step.get("run", ""), step


def test_rights_are_the_least_and_no_other_push_is_cancelled() -> None:
    assert CONVERT["permissions"] == {}
    assert CONVERT["jobs"]["convert"]["permissions"] == {"contents": "read", "statuses": "write"}
    assert "github.sha" in CONVERT["concurrency"]["group"]
    assert CONVERT["concurrency"]["cancel-in-progress"] is False
    for step in STEPS.values():
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def run_step(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A step's script as GitHub's runner starts it, with the tools of `folder`/bin before all others."""
    files = {variable: str(folder / variable) for variable in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]],  # noqa: S607 - as there
        cwd=folder,
        env={**os.environ, **files, **environment, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def fake(folder: Path, name: str, body: str) -> None:
    """A program that notes its arguments, one a line, and then does `body`."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >> {folder}/{name}.log\n{body}\n')
    path.chmod(0o755)


def plan_of(*models: dict[str, Any]) -> str:
    return json.dumps({"from": "1" * 40, "models": models})


@pytest.fixture
def models(tmp_path: Path) -> Source:
    source = make_source(tmp_path / "models")
    source.commit({"a": "1"})
    source.commit({"a": "2"})
    return source


@pytest.mark.parametrize(
    ("plan", "touched"),
    [
        (plan_of(), "false"),
        (plan_of({"needs_work": False, "broken": None}), "false"),
        (plan_of({"needs_work": False, "broken": None}, {"needs_work": True, "broken": None}), "true"),
        (plan_of({"needs_work": False, "broken": "why"}), "true"),
    ],
)
@pytest.mark.skipif(subprocess.run(["which", "jq"], capture_output=True, check=False).returncode != 0, reason="no jq")  # noqa: S607
def test_only_a_push_that_touches_a_model_is_submitted(models: Source, tmp_path: Path, plan: str, touched: str) -> None:
    fake(tmp_path, "enginegate", f"echo '<b>plan</b>' >&2; echo '{plan}'")
    before = git(models.root, "rev-parse", "HEAD~1")
    done = run_step("plan", tmp_path, COMMIT="HEAD", BEFORE=before)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "GITHUB_OUTPUT").read_text() == f"from={'1' * 40}\ntouched={touched}\n"
    assert "\n    <b>plan</b>\n" in (tmp_path / "GITHUB_STEP_SUMMARY").read_text(), "indented, so it is code"
    assert STEPS["submit"]["if"] == "steps.plan.outputs.touched == 'true'"


def test_a_plan_that_fails_is_shown_and_fails_the_step(models: Source, tmp_path: Path) -> None:
    assert models
    fake(tmp_path, "enginegate", "echo 'error: why' >&2; exit 2")
    done = run_step("plan", tmp_path, COMMIT="HEAD", BEFORE="")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[0].startswith("::stop-commands::")
    assert lines[1:] == ["error: why", f"::{lines[0].rpartition('::')[2]}::"]
    assert "--from" not in (tmp_path / "enginegate.log").read_text()


def test_the_commit_before_a_forced_push_is_given_as_zeros_where_the_clone_lacks_it(
    models: Source, tmp_path: Path
) -> None:
    assert models
    fake(tmp_path, "enginegate", "exit 1")
    run_step("plan", tmp_path, COMMIT="HEAD", BEFORE="f" * 40)
    arguments = (tmp_path / "enginegate.log").read_text().splitlines()
    assert arguments[arguments.index("--from") + 1] == "0" * 40


def test_a_push_reaches_submit_word_by_word_and_its_exit_code_is_the_step_s(tmp_path: Path) -> None:
    fake(tmp_path, "enginegate", "exit 3")
    hostile = "refs/heads/$(touch x);`touch y` '\" a"
    done = run_step(
        "submit", tmp_path, ADDRESS="https://h/a", COMMIT="c" * 40, FROM="0" * 40, REF=hostile, WAIT="--wait",
        TIMEOUT_S="9",
    )  # fmt: skip
    assert done.returncode == 3
    arguments = (tmp_path / "enginegate.log").read_text().splitlines()
    assert arguments[:11] == [
        *("submit", "https://h/a", "--commit", "c" * 40, "--from", "0" * 40),
        *("--ref", hostile, "--wait", "--timeout", "9"),
    ]
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


def test_each_status_is_posted_as_it_is(tmp_path: Path) -> None:
    fake(tmp_path, "gh", f"cat >> {tmp_path}/posted")
    said = json.dumps({"state": "error", "context": "enginegate/a", "description": "$(touch x) `touch y` \\n"})
    (tmp_path / "statuses.jsonl").write_text(f"{said}\n{said}\n")
    done = run_step("commit statuses", tmp_path, REPOSITORY="acme/models", COMMIT="c" * 40)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "posted").read_text() == f"{said}\n{said}\n"
    assert f"repos/acme/models/statuses/{'c' * 40}" in (tmp_path / "gh.log").read_text()
    assert not (tmp_path / "x").exists()


def test_without_verdicts_no_status_is_posted(tmp_path: Path) -> None:
    fake(tmp_path, "gh", "true")
    assert run_step("commit statuses", tmp_path, REPOSITORY="a/b", COMMIT="c").returncode == 0
    assert not (tmp_path / "gh.log").exists()


def test_races_and_kill_loops_run_in_full_every_night_and_by_hand() -> None:
    nightly = yaml.safe_load((WORKFLOWS / "hardship.yml").read_text())
    assert set(nightly[True]) == {"schedule", "workflow_dispatch"}, "YAML reads the key `on` as true"
    assert nightly["permissions"] == {}
    assert nightly["jobs"]["hardship"]["permissions"] == {"contents": "read"}
    assert nightly["jobs"]["hardship"]["steps"][-1]["run"] == "make hardship"
    recipe = re.search(r"^hardship:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    assert "--hardship -m hardship" in recipe[1]
