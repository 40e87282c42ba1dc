"""Rules files: YAML to checked rules. All that is wrong is said at once, each with its line."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from agentledger.processors.rules.models import Rule, RuleSet
from agentledger.schemas.yaml_file import YamlFileError, parse_yaml, read_bounded

FILE_BYTES_MAX = 1_000_000  # 500 rules with much text are a tenth of it


class RulesFileError(YamlFileError):
    """A rules file is wrong."""

    advice = "see infra/docs/ALERT_RULES.md for the fields of each kind"


def load_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file, also those that are not enabled. Raises RulesFileError."""
    return parse_rules(read_bounded(path, bytes_max=FILE_BYTES_MAX, error=RulesFileError), where=str(path))


def parse_rules(raw: bytes, *, where: str) -> tuple[Rule, ...]:
    """The rules in these bytes of YAML: a list under `rules`, or one rule by itself. Raises RulesFileError."""
    file = parse_yaml(raw, where=where, bytes_max=FILE_BYTES_MAX, error=RulesFileError)
    is_one = "rules" not in file.content and "kind" in file.content
    return file.checked(RuleSet, {"rules": [file.content]} if is_one else file.content).rules


@cache
def default_rules() -> tuple[Rule, ...]:
    """The rules that are shipped."""
    raw = files("agentledger.processors.rules").joinpath("default.yaml").read_bytes()
    return parse_rules(raw, where="default.yaml")


def rules_or_default(path: Path | None) -> tuple[Rule, ...]:
    """The rules of a file, or those that are shipped where none is given."""
    return default_rules() if path is None else load_rules(path)


def enabled(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Those that are switched on."""
    return tuple(rule for rule in rules if rule.enabled)
