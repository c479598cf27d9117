"""A connection to S3 with bounded retries, and what its failures mean. Imports boto3: extra `s3`, and 0.3 s."""

from __future__ import annotations

import random
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from urllib3.exceptions import HTTPError

from tasks.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# At a fifth of all calls failing, 8 in a row do so once in 400,000. They take some 6 s of waiting.
ATTEMPTS = 8
CONNECT_S = 10
FIRST_PAUSE_S = 0.05
# A server that is down is told after botocore's own retries, which take about as long.
PATIENCE_S = 5.0
CONFLICT, PRECONDITION, NOT_FOUND = 409, 412, 404
# Of the statuses that blame the caller, those that may be otherwise next time.
RETRYABLE = frozenset({408, CONFLICT, PRECONDITION, 425, 429})
# A connection that broke while the body of an answer came: botocore retries requests, not bodies.
BROKEN_BODY = (HTTPClientError, IncompleteReadError, HTTPError, OSError)
ELSEWHERE = (
    "the server sends the call elsewhere, so the bucket is in another region or at another endpoint; set"
    " AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3 to the bucket's own"
)
SETTINGS = (NoCredentialsError, ParamValidationError, PartialCredentialsError, ProfileNotFound)


def connect(bucket: str, connections: int, timeout_s: float) -> Any:
    """A client of S3: endpoint, region and credentials as any AWS tool takes them.

    Args:
        bucket: named in errors.
        connections: how many threads use it at once.
        timeout_s: longest silence of the server in an answer.

    Raises:
        InputError: the settings are at fault.
    """
    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_S,
        read_timeout=timeout_s,
        max_pool_connections=connections,
        # Every body is signed with its SHA-256, over TLS too: S3 and radosgw check it, which the newer checksums that
        # botocore would add are not by radosgw 16. What comes back has its SHA-256 checked by us.
        s3={"payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        # A session of its own: boto3's default one keeps the first credentials that it saw.
        return boto3.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: AWS_ENDPOINT_URL is no address
        raise InputError(f"s3://{bucket}: {_reason(error)}; correct AWS_PROFILE or AWS_ENDPOINT_URL") from None


@contextmanager
def explained(operation: str, place: str) -> Iterator[None]:
    """Turn a failure of S3 into an error that says what could not be done, why, and what to do.

    Raises:
        InputError: credentials, rights, bucket or region are at fault.
        StageError: anything else, a file that cannot be read or written included.
    """
    try:
        yield
    except RecursionError:  # botocore asks for the bucket's region, is redirected, and asks again
        raise InputError(f"{place}: cannot {operation}: {ELSEWHERE}") from None
    except (ClientError, BotoCoreError, HTTPError, OSError) as error:
        text = f"{place}: cannot {operation}: {_reason(error)}"
        if 300 <= status_of(error) < 400:  # noqa: PLR2004 - HTTP's class of redirects
            raise InputError(f"{text}: {ELSEWHERE}") from None
        if isinstance(error, SETTINGS) or (400 <= status_of(error) < 500 and status_of(error) not in RETRYABLE):  # noqa: PLR2004 - HTTP's class of the caller's mistakes
            raise InputError(f"{text}; correct the address, AWS_PROFILE, credentials and AWS_ENDPOINT_URL") from None
        raise StageError(f"{text}; check the network, the server and the disk, and run it again") from None


def status_of(error: Exception) -> int:
    """The HTTP status of an error, 0 where no answer came."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))


def is_absent(error: ClientError) -> bool:
    """Whether an object is missing, rather than its bucket. An answer to HEAD cannot tell."""
    return status_of(error) == NOT_FOUND and error.response["Error"].get("Code") in {"NoSuchKey", "404"}


def is_first_answer(error: ClientError) -> bool:
    """Whether no earlier try of the same call could have been carried out, its answer lost."""
    return not error.response["ResponseMetadata"].get("RetryAttempts")


def may_pass(error: Exception, seconds: float) -> bool:
    """Whether a write is worth another try, after so many seconds of trying.

    botocore retries by itself, but takes each retry from an allowance that only successes fill again. A lost race is no
    success, and costs a retry where a server answers it with 500, as radosgw 16 does: many of them use it up.
    """
    status = status_of(error)
    failing = status >= 500 or (status == 0 and not isinstance(error, SETTINGS))  # noqa: PLR2004 - HTTP's class
    return status == CONFLICT or (failing and seconds < PATIENCE_S)


def pause(attempt: int) -> None:
    """Wait before the next try, for longer each time, by chance, so that the losers of a race do not meet again."""
    time.sleep(random.random() * FIRST_PAUSE_S * 2**attempt)  # noqa: S311 - no secret


def _reason(error: Exception) -> str:
    if isinstance(error, ClientError):
        found = error.response["Error"]
        text = f"{found.get('Code') or status_of(error)} {found.get('Message') or ''}"
    else:
        text = str(error)
    # An endpoint may be written with a password, an address in an error with a signature.
    text = re.sub(r"//[^/\s@]*@", "//", re.sub(r"\?[^\s\"']*", "", text))
    return " ".join(text.split())
