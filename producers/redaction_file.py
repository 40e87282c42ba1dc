"""A redaction policy from a YAML file, and its key. All that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agentledger.producers.redaction import Redaction, RedactionPolicy
from agentledger.schemas.errors import ConfigurationError
from agentledger.schemas.ports import SubjectKeys

FILE_BYTES_MAX = 1_000_000  # a thousand rules are a tenth of it
_NEXT = "infra/docs/REDACTION.md shows the fields"


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
        policy = _checked(dict(given), "redaction=")
    else:
        policy = parse_policy(_read(Path(given)), where=str(given))
    key = _read(Path(key_file)).strip() if key_file and policy.needs_key else None
    return Redaction(policy, key=key, subject_keys=subject_keys)


def parse_policy(raw: bytes, *, where: str) -> RedactionPolicy:
    """The policy in a YAML document. Raises ConfigurationError with one line for all that is wrong."""
    try:
        document = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}" if mark is not None else where
        raise ConfigurationError("the redaction policy is no YAML", where=line, next_step=_NEXT) from None
    return _checked({} if document is None else document, where)


def _checked(document: Any, where: str) -> RedactionPolicy:
    try:
        return RedactionPolicy.model_validate(document)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in found['loc']) or 'the document'}: {found['msg']}"
            for found in error.errors(include_url=False, include_input=False)  # the input could be a secret
        ]
        what = "; ".join(problems)
        raise ConfigurationError(f"the redaction policy is wrong: {what}", where=where, next_step=_NEXT) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"it can't be read: {error.strerror or error}", where=str(path)) from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigurationError(f"it has more than {FILE_BYTES_MAX:,} bytes", where=str(path), next_step=_NEXT)
    return raw
