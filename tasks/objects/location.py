"""Which object store an address means."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.errors import InputError
from tasks.objects.folder import LocalObjects
from tasks.objects.interface import ObjectStore, is_key

S3 = "s3://"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):|(s3)//")
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def open_objects(address: str) -> ObjectStore:
    """Open the store at `s3://bucket/prefix` or in a folder, which need not exist yet.

    Nothing is read or written yet: whether a bucket can be reached shows at its first use.

    Raises:
        InputError: the address is neither, a file lies at it, or S3 is meant and boto3 is not installed.
    """
    if address.startswith(S3):
        return _open_s3(address)
    scheme = SCHEME.match(address)
    if scheme:  # the rest is not repeated: it may hold a password
        raise InputError(f"the store's address starts with {scheme[0]}, and may be s3://bucket/prefix or a folder")
    if not address.strip() or "\0" in address:
        raise InputError(f"the store's address {address!r} is empty or has a NUL; write s3://bucket/prefix or a folder")
    path = Path(address).expanduser()
    if path.exists() and not path.is_dir():
        raise InputError(f"the store's address {path} is a file; write s3://bucket/prefix or a folder")
    return LocalObjects(path)


def _open_s3(address: str) -> ObjectStore:
    bucket, _, prefix = address.removeprefix(S3).partition("/")
    if not BUCKET.fullmatch(bucket):
        raise InputError("the store's address names no bucket of S3; write s3://bucket/prefix, without credentials")
    prefix = prefix.rstrip("/")
    if prefix and not is_key(prefix):  # not repeated: it may hold a signature
        raise InputError(f"s3://{bucket}: the prefix behind it is none; write parts of [A-Za-z0-9._=@+-], joined by /")
    try:
        from tasks.objects.s3 import S3Objects  # noqa: PLC0415 - extra `s3`, and 0.3 s
    except ImportError:
        raise InputError(f"{address} needs the package boto3; install enginegate[s3]") from None
    return S3Objects(bucket, prefix)
