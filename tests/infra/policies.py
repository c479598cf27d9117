"""What AWS's rules make of policy documents and a call to S3: as much of them as the registry's template uses.

From "Policy evaluation logic" and "IAM JSON policy elements: Condition operators" in AWS's IAM user guide, and from
"Enforce conditional writes" in its S3 user guide. moto ignores what a bucket's policy asks of a call. Whatever is not
known here is an error, so that a new kind of statement cannot pass unseen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

KNOWN_KEYS = {
    "aws:SecureTransport", "aws:PrincipalArn",
    "s3:if-match", "s3:if-none-match", "s3:ObjectCreationOperation", "s3:prefix",
}  # fmt: skip
KNOWN_ELEMENTS = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
# The right that S3 asks for, by call.
RIGHTS = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
}
MAKES_NO_OBJECT = {"CreateMultipartUpload", "UploadPart"}
CONTEXT_OF_PARAMETERS = {"IfMatch": "s3:if-match", "IfNoneMatch": "s3:if-none-match", "Prefix": "s3:prefix"}


@dataclass(frozen=True)
class Call:
    """A right that is asked for, on a resource by ARN, with the keys that AWS knows of the call."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def is_allowed(call: Call, identity: Iterable[dict[str, Any]], bucket: dict[str, Any]) -> bool:
    """Whether an identity's policies or the bucket's allow a call, and none denies it."""
    statements = [each for policy in (*identity, bucket) for each in policy["Statement"]]
    return {each["Effect"] for each in statements if _applies(each, call)} == {"Allow"}


def call_of(operation: str, parameters: Mapping[str, Any], *, who: str, secure: bool = True) -> Call:
    """What S3 asks IAM for an operation of boto3's client, called with parameters by the identity `who`, an ARN."""
    context = {"aws:SecureTransport": str(secure).lower(), "aws:PrincipalArn": who}
    context |= {key: str(parameters[name]) for name, key in CONTEXT_OF_PARAMETERS.items() if name in parameters}
    if RIGHTS[operation] == "s3:PutObject":
        context["s3:ObjectCreationOperation"] = str(operation not in MAKES_NO_OBJECT).lower()
    resource = f"arn:aws:s3:::{parameters['Bucket']}" + (f"/{parameters['Key']}" if "Key" in parameters else "")
    action = "s3:DeleteObjectVersion" if parameters.get("VersionId") else RIGHTS[operation]
    return Call(action, resource, context)


def enforce(client: Any, who: str, identity: Sequence[dict[str, Any]], bucket: dict[str, Any]) -> None:
    """Refuse the calls of a client of S3 that the policies do not allow, as S3 does: 403, before anything is done."""

    def check(params: dict[str, Any], model: Any, **_others: object) -> None:
        call = call_of(model.name, params, who=who, secure=client.meta.endpoint_url.startswith("https:"))
        if not is_allowed(call, identity, bucket):
            answer = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(answer, model.name)

    client.meta.events.register_first("before-parameter-build.s3", check)


def _applies(statement: dict[str, Any], call: Call) -> bool:
    unknown = set(statement) - KNOWN_ELEMENTS
    assert not unknown, f"no rule here for {unknown}"
    assert statement.get("Principal", "*") == "*", "no rule here for principals"
    return (
        any(_like(call.action.lower(), each.lower()) for each in _listed(statement["Action"]))
        and any(_like(call.resource, each) for each in _listed(statement["Resource"]))
        and all(
            _holds(operator, call.context.get(key), _listed(values))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
            if _is_known(key)
        )
    )


def _is_known(key: str) -> bool:
    assert key in KNOWN_KEYS, f"no rule here for {key}"
    return True


def _holds(operator: str, actual: str | None, values: list[str]) -> bool:
    """Whether a condition holds; a call without the key fulfils those that say so: Null, a negation, IfExists."""
    if operator == "Null":
        return values == [str(actual is None).lower()]
    if operator == "Bool":
        return actual is not None and actual.lower() in values
    if operator == "ArnNotEquals":
        return actual is None or not any(_like(actual, each) for each in values)
    assert operator == "StringLikeIfExists", f"no rule here for {operator}"
    return actual is None or any(_like(actual, each) for each in values)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _like(text: str, pattern: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None
