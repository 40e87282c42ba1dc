"""Secrets and personal data in text, found by well-kept libraries: the extra `detectors`.

They find forms, not meanings: keys and tokens of known services, private keys, passwords in addresses (detect-secrets);
mail addresses, phone numbers, cards, IBANs and US social security numbers (Presidio's pattern recognizers). A password
in prose, a name, a street, a customer's number are not found. No detector replaces a rule that drops the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from agentledger.schemas.errors import ConfigurationError

Detector = Callable[[str], str]

TEXT_CHARS_MAX = 200_000  # what one text may cost: its rest is withheld, not passed unread
REST_WITHHELD = "[rest withheld]"
PHONE_SCORE_MIN = 0.3  # Presidio's own floor: it gives a phone number without a word beside it 0.4
# What detect-secrets has no detector for: keys of model providers, and whatever follows `Bearer`.
_KEYS = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9][A-Za-z0-9_-]{18,}|\bAIza[0-9A-Za-z_-]{35}|\bgh[pousr]_[A-Za-z0-9_]{30,}"
    r"|\bhf_[A-Za-z0-9]{30,}|(?<=\bBearer )[A-Za-z0-9._~+/=-]{8,}"
)
_ASSIGNED = re.compile(  # password=…, "api_key": "…"
    r"(?i)\b(?:password|passwd|pwd|secret|api[_-]?key|token|access[_-]?key|authorization)\b[\"']?\s*[:=]\s*"
    r"(?:(?:basic|bearer)\s+)?[\"']?([^\s\"',;}]{4,})"
)


def detectors_of(names: Iterable[str]) -> tuple[Detector, ...]:
    """The detectors of these names, `secrets` before `personal`. Raises ConfigurationError where one isn't there."""
    wanted = set(names)
    found: list[Detector] = []
    if "secrets" in wanted:
        found.append(_secrets())
    if "personal" in wanted:
        found.append(_personal())
    return tuple(found)


@cache
def _secrets() -> Detector:
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class  # noqa: PLC0415
        from detect_secrets.plugins.base import RegexBasedDetector  # noqa: PLC0415
    except ImportError:
        raise _missing("secrets") from None
    kinds: dict[str, Any] = get_mapping_from_secret_type_to_class()
    plugins: list[Any] = [
        kind()
        for name, kind in sorted(kinds.items())
        if issubclass(kind, RegexBasedDetector) and name != "Public IP (ipv4)"  # an address is no secret
    ]
    patterns = [pattern for plugin in plugins for pattern in plugin.denylist]

    def redact(text: str) -> str:
        spans = [found.span() for pattern in (*patterns, _KEYS) for found in pattern.finditer(text)]
        spans += [found.span(1) for found in _ASSIGNED.finditer(text)]
        return _without(text, spans, "[secret]")

    return _bounded(redact)


@cache
def _personal() -> Detector:
    try:
        from presidio_analyzer.predefined_recognizers import (  # noqa: PLC0415
            CreditCardRecognizer,
            EmailRecognizer,
            IbanRecognizer,
            PhoneRecognizer,
            UsSsnRecognizer,
        )
    except ImportError:
        raise _missing("personal") from None

    class Mail(EmailRecognizer):  # type: ignore[misc]
        """Without the look at the list of public suffixes, which would be fetched from the network."""

        def validate_result(self, pattern_text: str) -> bool:
            return "." in pattern_text.rpartition("@")[2]

    recognizers = [Mail(), CreditCardRecognizer(), IbanRecognizer(), UsSsnRecognizer(), PhoneRecognizer()]

    def redact(text: str) -> str:
        spans = [
            (found.start, found.end)
            for recognizer in recognizers
            for found in recognizer.analyze(text, recognizer.supported_entities)
            if found.score >= PHONE_SCORE_MIN
        ]
        return _without(text, spans, "[personal]")

    return _bounded(redact)


def _bounded(redact: Detector) -> Detector:
    def within(text: str) -> str:
        return redact(text) if len(text) <= TEXT_CHARS_MAX else redact(text[:TEXT_CHARS_MAX]) + REST_WITHHELD

    return within


def _without(text: str, spans: Sequence[tuple[int, int]], word: str) -> str:
    """The text with each span replaced; spans that touch are one."""
    parts: list[str] = []
    end = 0
    for first, behind in sorted(span for span in spans if span[0] < span[1]):
        if first > end or not parts:
            parts += [text[end:first], word]
        end = max(end, behind)
    return "".join([*parts, text[end:]])


def _missing(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the detector {name!r} isn't installed", next_step="pip install 'agentledger[detectors]'"
    )
