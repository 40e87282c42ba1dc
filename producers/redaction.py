"""What may leave the process of arguments, results, prompts and answers: rules per tool and field.

    fields:
      - {tool: create_refund, part: arguments, field: order_id, action: keep}
      - {field: customer.email, action: encrypt}
      - {field: "**.card_number", action: mask}
    default: drop
    detect: [secrets, personal]

The rule for a value is the first that names it or anything around it; without one it is the `default`. By default
nothing is kept. Digest and size are of the whole value all the same, unless `digests: keyed`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from agentledger.producers.content import KEYED, plain, to_canonical
from agentledger.producers.detectors import Detector, detectors_of
from agentledger.producers.personal import WITHHELD
from agentledger.schemas.errors import AgentledgerError, ConfigurationError
from agentledger.schemas.personal import seal
from agentledger.schemas.ports import SubjectKeys

Action = Literal["keep", "drop", "mask", "hash", "encrypt"]
Part = Literal["arguments", "result", "input", "output", "change"]
Path = tuple[str, ...]

MASK = "[masked]"
KEY_BYTES_MIN = 16  # a shorter key could be found by trying
FIELDS_MAX = 10_000  # leaves of one value that are looked at; what comes behind them is dropped
_DROPPED = object()


class FieldRule(BaseModel):
    """What to do with the fields of a name. `tool` and `field` are patterns as of file names; in `field` a `*` is one
    step of the path and `**` any number; items of a list stand at the path of their list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str = Field("*", min_length=1)
    part: Part | Literal["*"] = "*"
    field: str = Field(min_length=1)
    action: Action


class RedactionPolicy(BaseModel):
    """The rules of a ledger, as the file says them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: tuple[FieldRule, ...] = Field((), max_length=1000)
    default: Action = "drop"
    detect: tuple[Literal["secrets", "personal"], ...] = ()
    digests: Literal["plain", "keyed"] = "plain"

    @property
    def needs_key(self) -> bool:
        """Whether something is hashed with a key."""
        actions = {self.default, *(rule.action for rule in self.fields)}
        return "hash" in actions or self.digests == "keyed"


class Shown(NamedTuple):
    """What of a value may leave (None: nothing), and what became of each field."""

    value: Any
    fields: tuple[tuple[str, Action], ...]


class Redaction:
    """Applies a policy. `key` is for `hash` and keyed digests, `subject_keys` for `encrypt`.

    Raises ConfigurationError where the policy needs a key that isn't given, or a detector that isn't installed.
    """

    def __init__(
        self, policy: RedactionPolicy, *, key: bytes | None = None, subject_keys: SubjectKeys | None = None
    ) -> None:
        if policy.needs_key and (key is None or len(key) < KEY_BYTES_MIN):
            raise ConfigurationError(
                f"the redaction policy hashes with a key of at least {KEY_BYTES_MIN} bytes, which isn't there",
                next_step="name its file with AGENTLEDGER_REDACTION_KEY_FILE",
            )
        self.policy = policy
        self._key = key or b""
        self._subject_keys = subject_keys
        self._detectors: tuple[Detector, ...] = detectors_of(policy.detect)
        self._action = lru_cache(maxsize=4096)(self._find_action)

    @property
    def digest_key(self) -> bytes | None:
        """The key of digests; None where they are plain SHA-256."""
        return self._key if self.policy.digests == "keyed" else None

    def show(self, value: Any, *, tool: str, part: Part, tenant_id: str, actor: str) -> Shown:
        """What of the value may leave. Never raises: what fails doesn't leave."""
        walk = _Walk(self, tool, part, tenant_id, actor)
        try:
            shown = walk.of(plain(value), ())
        except Exception:  # noqa: BLE001 - a redaction that fails must not let anything through, nor stop the agent
            return Shown(None, tuple(walk.fields))
        return Shown(None if shown is _DROPPED else shown, tuple(walk.fields))

    def clean(self, text: str) -> str:
        """A free text (an error's message, a reason, a label) without what the detectors find in it. Never raises."""
        for detector in self._detectors:
            try:
                text = detector(text)
            except Exception:  # noqa: BLE001 - what couldn't be looked at doesn't leave
                return WITHHELD
        return text

    @property
    def cleans(self) -> bool:
        """Whether `clean` can change anything."""
        return bool(self._detectors)

    def action(self, tool: str, part: str, path: Path) -> Action:
        """What happens to the field."""
        return self._action(tool, part, path)

    def _find_action(self, tool: str, part: str, path: Path) -> Action:
        for rule in self.policy.fields:
            if rule.part in {"*", part} and fnmatchcase(tool, rule.tool) and covers(tuple(rule.field.split(".")), path):
                return rule.action
        return self.policy.default

    def hashed(self, value: Any) -> str:
        """A value as a hash that nobody can guess at without the key."""
        return KEYED + hmac.digest(self._key, to_canonical(value), hashlib.sha256)[:16].hex()

    def encrypted(self, value: Any, tenant_id: str, subject: str) -> str:
        """A value sealed under the key of its subject; withheld where there is no subject, or no key."""
        if self._subject_keys is None or not subject:
            return WITHHELD
        text = value if isinstance(value, str) else to_canonical(value).decode()
        try:
            return seal(text, self._subject_keys.key_for(tenant_id, subject))
        except AgentledgerError:
            return WITHHELD


class _Walk:
    """One value on its way through the rules."""

    def __init__(self, redaction: Redaction, tool: str, part: Part, tenant_id: str, actor: str) -> None:
        self._redaction = redaction
        self._tool, self._part = tool, part
        self._tenant_id, self._actor = tenant_id, actor
        self.fields: list[tuple[str, Action]] = []

    def of(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            items = ((name, self.of(item, (*path, name))) for name, item in value.items())
            kept = {self._redaction.clean(name): item for name, item in items if item is not _DROPPED}
            return kept if kept or not value else _DROPPED
        if isinstance(value, list):
            found = [item for item in (self.of(item, path) for item in value) if item is not _DROPPED]
            return found if found or not value else _DROPPED
        return self._leaf(value, path)

    def _leaf(self, value: Any, path: Path) -> Any:
        if len(self.fields) >= FIELDS_MAX:
            return _DROPPED
        action = self._redaction.action(self._tool, self._part, path)
        self.fields.append((".".join(path), action))
        match action:
            case "keep":
                return self._redaction.clean(value) if isinstance(value, str) else value
            case "mask":
                return MASK
            case "hash":
                return self._redaction.hashed(value)
            case "encrypt":
                return self._redaction.encrypted(value, self._tenant_id, self._actor)
            case _:
                return _DROPPED


def covers(pattern: Sequence[str], path: Path) -> bool:
    """Whether the pattern names the path or something around it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(covers(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and covers(pattern[1:], path[1:])
