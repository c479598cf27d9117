from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.objects.folder import LocalObjects
from tasks.objects.location import open_objects
from tasks.objects.s3 import S3Objects


@pytest.mark.parametrize("address", ["s3://engines", "s3://engines/registry", "s3://my.engines-1/a/b"])
def test_an_address_of_s3_opens_s3(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    objects = open_objects(address)
    assert isinstance(objects, S3Objects)
    assert objects.address == address
    assert open_objects(f"{address}/").address == address


def test_a_folder_opens_a_folder_that_need_not_exist(tmp_path: Path) -> None:
    for address, folder in {
        str(tmp_path / "new"): tmp_path / "new",
        "relative/folder": tmp_path / "relative" / "folder",
        "~/registry": Path.home() / "registry",
    }.items():
        objects = open_objects(address)
        assert isinstance(objects, LocalObjects)
        assert objects.address == str(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        *("", " ", "a\0b", "s3://", "s3:///key", "s3://UPPER/a", "s3://a/b", "s3://engines/../b", "s3://engines/a//b"),
        *("https://host/bucket", "file:///tmp/a", "gs://bucket/a", "s3:/engines", "S3://engines"),
    ],
)
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(InputError):
        open_objects(address)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"file is a file"):
        open_objects(str(tmp_path / "file"))


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(InputError, match=r"starts with https:") as error:
        open_objects("https://me:do-not-print-me@host/bucket")
    assert "do-not-print-me" not in str(error.value)


def test_without_boto3_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tasks.objects.s3")
    monkeypatch.delitem(sys.modules, "tasks.objects.s3_client")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(InputError, match=r"s3://engines/a needs the package boto3; install enginegate\[s3\]"):
        open_objects("s3://engines/a")


def test_a_folder_is_opened_without_importing_boto3(tmp_path: Path) -> None:
    program = "import sys, tasks.objects.location as a; a.open_objects('.'); print('boto3' in sys.modules)"
    repository = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(repository)},
        capture_output=True,
    )
    assert done.stdout == b"False\n"
