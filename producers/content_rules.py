"""What a ledger does with content: seals personal fields, digests the rest, and lets through what redaction allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentledger.producers.billing import http_status
from agentledger.producers.bounds import clean_labels, clean_text
from agentledger.producers.content import Content, Redact, describe, digest_words, keep_all
from agentledger.schemas.errors import AgentledgerError, UsageError
from agentledger.schemas.ports import SubjectKeys

if TYPE_CHECKING:
    from agentledger.producers.personal import PersonalFields
    from agentledger.producers.redaction import Part, Redaction, RedactionPolicy

REDACTION_FILE_ENV = "AGENTLEDGER_REDACTION_FILE"
REDACTION_KEY_FILE_ENV = "AGENTLEDGER_REDACTION_KEY_FILE"


class ContentRules:
    """The rules of one ledger. `to_payloads`: what is let through of calls goes to the payload topic, not into the
    event; what a person is asked to approve stays in the event."""

    def __init__(
        self,
        *,
        tenant_id: str,
        redact: Redact | None = None,
        redaction: Redaction | None = None,
        personal: PersonalFields | None = None,
        to_payloads: bool = False,
    ) -> None:
        self._tenant_id = tenant_id
        self._redact = redact
        self._personal = personal
        self.redaction = redaction
        self.to_payloads = to_payloads
        self._digest_key = redaction.digest_key if redaction is not None else None

    def describe(self, value: object, part: Part, *, tool: str, actor: str) -> Content:
        """Digest and size of a value, and what of it may leave. Never raises."""
        sealed = self._sealed(value, actor)
        beside = self.to_payloads and part != "change"
        return describe(sealed, self._shown(part, tool, actor), key=self._digest_key, whole=beside)

    def digest(self, value: object, *, actor: str) -> Content:
        """Digest and size of a value, and nothing of it."""
        return describe(self._sealed(value, actor), key=self._digest_key)

    def error_text(self, error: BaseException) -> str:
        """What an event says of an error: our own errors' words, of others the HTTP status and what `words` gives.
        Never raises."""
        if isinstance(error, AgentledgerError):
            return clean_text(error)
        status, words = http_status(error), self.words(clean_text(error))
        is_kept = self._redact is not None or self.clean is not None
        return words if is_kept or status is None else ", ".join(filter(None, (f"HTTP {status}", words)))

    def words(self, words: str) -> str:
        """What an event says of the words of somebody else's error, which may quote a prompt, a key or a row. Never
        raises.

        They are kept where `redact` lets them through, or where detectors look at them, which the emitter makes them
        do. Else there are their size and digest: whoever has them in a log of their own finds them again.
        """
        if self._redact is not None:
            try:
                return clean_text(self._redact(words))
            except Exception:  # noqa: BLE001 - a redaction that fails must not let anything through, nor stop the agent
                return ""
        if self.clean is not None or not words:
            return words
        return digest_words(words, self._digest_key)

    @property
    def clean(self) -> Callable[[str], str] | None:
        """What free texts go through; None where nothing looks at them."""
        return self.redaction.clean if self.redaction is not None and self.redaction.cleans else None

    def labels(self, labels: Mapping[Any, Any] | None) -> dict[str, str]:
        """The labels, bounded, without what the detectors find in them."""
        bounded = clean_labels(labels)
        clean = self.clean
        return bounded if clean is None else {clean(name): clean(value) for name, value in bounded.items()}

    def _sealed(self, value: object, actor: str) -> object:
        """The value with its personal fields sealed: not even a digest is of what was in them."""
        if self._personal is None:
            return value
        return self._personal.protect(value, tenant_id=self._tenant_id, actor=actor)

    def _shown(self, part: Part, tool: str, actor: str) -> Redact | None:
        redaction = self.redaction
        if redaction is None:
            return self._redact
        return lambda value: redaction.show(value, tool=tool, part=part, tenant_id=self._tenant_id, actor=actor).value


def open_content_rules(
    *,
    tenant_id: str,
    redact: Redact | None,
    keep_content: bool,
    redaction: Redaction | RedactionPolicy | Mapping[str, Any] | str | Path | None,
    personal: PersonalFields | None,
    subject_keys: SubjectKeys | None,
    to_payloads: bool,
) -> ContentRules:
    """The rules that a ledger's caller, or else AGENTLEDGER_REDACTION_FILE, names.

    Raises ConfigurationError for a file or a policy that is wrong, UsageError where two ways are given at once.
    """
    if sum((redact is not None, keep_content, redaction is not None)) > 1:
        raise UsageError("give one of redact=, keep_content= and redaction=", next_step="the policy can do all of it")
    found = redaction
    if redact is None and not keep_content and redaction is None:
        found = os.environ.get(REDACTION_FILE_ENV) or None
    return ContentRules(
        tenant_id=tenant_id,
        redact=keep_all if keep_content else redact,
        redaction=None if found is None else _opened(found, subject_keys),
        personal=personal,
        to_payloads=to_payloads,
    )


def _opened(
    given: Redaction | RedactionPolicy | Mapping[str, Any] | str | Path, subject_keys: SubjectKeys | None
) -> Redaction:
    # Imported here: policies need pydantic, which costs every agent's start more than all the rest of this library.
    from agentledger.producers.redaction import Redaction  # noqa: PLC0415
    from agentledger.producers.redaction_file import load_redaction  # noqa: PLC0415

    if isinstance(given, Redaction):
        return given
    return load_redaction(given, key_file=os.environ.get(REDACTION_KEY_FILE_ENV), subject_keys=subject_keys)
