"""Signed checkpoints in an S3-compatible bucket with object lock: what was put there can't be taken away by anybody,
nor by who owns the bucket, before its time is over (mode COMPLIANCE).

Objects are named as the files of `FolderPlace`, so a copy of the bucket is a folder for `agentledger verify`. Who may
write to the bucket can still lay a new version over an object, or a mark that it is deleted: what counts is the first
version of each name. Credentials come from where boto3 looks for them (AWS_ACCESS_KEY_ID and so on).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from agentledger.schemas.errors import AgentledgerError, ConfigurationError, StoreError
from agentledger.sinks.checkpoint_places import bundle_name

S3_ERRORS: tuple[type[Exception], ...] = ()
with contextlib.suppress(ImportError):  # without the extra `s3` there is no client either: open_s3_place says so
    from botocore.exceptions import BotoCoreError, ClientError

    S3_ERRORS = (BotoCoreError, ClientError)

READ_ERRORS: tuple[type[Exception], ...] = (*S3_ERRORS, ValueError)  # the latter for what is no UTF-8, no address
CONNECT_S_MAX, READ_S_MAX = 5, 10
BUNDLE_BYTES_MAX = 64 * 1024 * 1024  # far above any bundle: heads.LINES_MAX lines of some 200 bytes
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


class S3Place:
    """A prefix of a bucket. `client` is a boto3 client; `retention_days` how long each object is locked."""

    def __init__(
        self, client: Any, bucket: str, prefix: str, retention_days: int, now: Callable[[], datetime] | None = None
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._retention = timedelta(days=retention_days)
        self._now = now or (lambda: datetime.now(UTC))
        self._is_checked = False

    @property
    def name(self) -> str:
        """What the place is called in messages."""
        return f"s3://{self._bucket}/{self._prefix}"

    def publish(self, first: int, text: str) -> bool:
        """Keep this text under its name for good. False where something else is there; nothing is changed then."""
        self._check_bucket()
        try:
            self._client.put_object(
                Bucket=self._bucket, Key=self._key(first), Body=text.encode(), ContentType="text/plain; charset=utf-8",
                IfNoneMatch="*", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=self._now() + self._retention,
                ChecksumAlgorithm="SHA256",
            )  # fmt: skip
        except S3_ERRORS as error:
            if _code(error) not in _TAKEN:
                raise self._failed("written", error) from None
        return self.read(first) == text

    def read(self, first: int) -> str | None:
        """What was kept first under this name, whatever was laid over it since."""
        key = self._key(first)
        try:
            found = self._client.list_object_versions(Bucket=self._bucket, Prefix=key, MaxKeys=1000)
            versions = [one for one in found.get("Versions", ()) if one["Key"] == key]
            if not versions:
                return None
            oldest = versions[-1]  # a bucket lists the newest of a name first
            answer = self._client.get_object(Bucket=self._bucket, Key=key, VersionId=oldest["VersionId"])
            text: str = answer["Body"].read(BUNDLE_BYTES_MAX).decode()
        except READ_ERRORS as error:
            raise self._failed("read", error) from None
        return text

    def _key(self, first: int) -> str:
        return self._prefix + bundle_name(first)

    def _check_bucket(self) -> None:
        """Raise ConfigurationError where the bucket locks nothing: it would look like a safe place, and be none."""
        if self._is_checked:
            return
        try:
            found = self._client.get_object_lock_configuration(Bucket=self._bucket)
            is_locked = found["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"
        except S3_ERRORS as error:
            if _code(error) != "ObjectLockConfigurationNotFoundError":
                raise self._failed("written", error) from None
            is_locked = False
        if not is_locked:
            raise ConfigurationError(
                "the bucket for checkpoints has no object lock", where=self.name,
                next_step="make one with object lock enabled: what it holds could be deleted otherwise",
            )  # fmt: skip
        self._is_checked = True

    def _failed(self, what: str, error: Exception) -> AgentledgerError:
        return StoreError(
            f"a checkpoint can't be {what}: {' '.join(str(error).split())[:300]}", where=self.name,
            next_step="see whether the bucket can be reached, and who may write there: the signer tries again",
        )  # fmt: skip


def open_s3_place(url: str, *, endpoint: str = "", retention_days: int) -> S3Place:
    """The place of `s3://BUCKET[/PREFIX]`. Raises ConfigurationError, also where boto3 isn't installed."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ConfigurationError(f"{url!r} is no bucket", next_step="write it as s3://BUCKET or s3://BUCKET/PREFIX")
    try:
        import boto3  # noqa: PLC0415 (optional)
        from botocore.config import Config  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "checkpoints in a bucket take boto3", next_step="pip install 'agentledger[s3]'"
        ) from None
    config = Config(connect_timeout=CONNECT_S_MAX, read_timeout=READ_S_MAX, retries={"max_attempts": 1})
    try:
        client = boto3.client("s3", endpoint_url=endpoint or None, config=config)
    except READ_ERRORS as error:
        raise ConfigurationError(
            f"the bucket can't be used: {error}", where=url, next_step="set AWS_REGION and the credentials"
        ) from None
    return S3Place(client, parts.netloc, parts.path, retention_days)


def _code(error: Exception) -> str:
    found: str = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    return found
