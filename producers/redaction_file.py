"""A redaction policy from a YAML file, and its key. All that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentledger.producers.redaction import Redaction, RedactionPolicy
from agentledger.schemas.ports import SubjectKeys
from agentledger.schemas.yaml_file import YamlFile, YamlFileError, parse_yaml, read_bounded

FILE_BYTES_MAX = 1_000_000  # a thousand rules are a tenth of it


class RedactionFileError(YamlFileError):
    """The redaction policy is wrong."""

    advice = "infra/docs/REDACTION.md shows the fields"


def load_redaction(
    given: RedactionPolicy | Mapping[str, Any] | str | Path,
    *,
    key_file: str | Path | None = None,
    subject_keys: SubjectKeys | None = None,
) -> Redaction:
    """The redaction of a policy, a mapping, or a YAML file. Raises ConfigurationError."""
    if isinstance(given, RedactionPolicy):
        policy = given
    elif isinstance(given, Mapping):
        policy = YamlFile("redaction=", None, dict(given), RedactionFileError).checked(RedactionPolicy)
    else:
        policy = parse_policy(_read(Path(given)), where=str(given))
    key = _read(Path(key_file)).strip() if key_file and policy.needs_key else None
    return Redaction(policy, key=key, subject_keys=subject_keys)


def parse_policy(raw: bytes, *, where: str) -> RedactionPolicy:
    """The policy in a YAML document. Raises RedactionFileError with all that is wrong."""
    file = parse_yaml(raw, where=where, bytes_max=FILE_BYTES_MAX, error=RedactionFileError)
    return file.checked(RedactionPolicy)


def _read(path: Path) -> bytes:
    return read_bounded(path, bytes_max=FILE_BYTES_MAX, error=RedactionFileError)
