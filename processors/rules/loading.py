"""Rules files: YAML to checked rules. All that is wrong is said at once, each with its place and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agentledger.processors.rules.models import RUN_KINDS, SCOPE_KINDS, Rule, RuleSet
from agentledger.schemas.errors import ConfigurationError

FILE_BYTES_MAX = 1_000_000  # 500 rules with much text are a tenth of it
_HINTS = {
    "extra_forbidden": "this kind has no such field: remove it, or check its spelling",
    "missing": "add it",
    "union_tag_not_found": "add the field kind",
}


class RulesFileError(ConfigurationError):
    """A rules file is wrong. `problems` has one line for each thing: place, what is wrong, next step."""

    def __init__(self, problems: Sequence[str], *, where: str) -> None:
        self.problems = tuple(problems)
        what = "; ".join(self.problems)
        super().__init__(what, where=where, next_step="see infra/docs/ALERT_RULES.md for the fields of each kind")


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice: YAML would keep the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """The rules of a file, also those that are not enabled. Raises RulesFileError."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        problem = f"it can't be read: {error.strerror or error}: give the path of a rules file"
        raise RulesFileError([problem], where=str(path)) from error
    return parse_rules(raw, where=str(path))


def parse_rules(raw: bytes, *, where: str) -> tuple[Rule, ...]:
    """The rules in these bytes of YAML: a list under `rules`, or one rule by itself. Raises RulesFileError."""
    if len(raw) > FILE_BYTES_MAX:
        raise RulesFileError([f"it is larger than {FILE_BYTES_MAX} bytes: split it"], where=where)
    try:
        content = yaml.load(raw, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RulesFileError([f"it is no YAML: {' '.join(str(error).split())}: correct it"], where=where) from error
    if isinstance(content, dict) and "rules" not in content and "kind" in content:
        content = {"rules": [content]}
    if not isinstance(content, dict):
        raise RulesFileError(["it has no list of rules: write `rules:` and one entry per rule"], where=where)
    try:
        return RuleSet.model_validate(content).rules
    except ValidationError as error:
        problems = [_problem(entry, content) for entry in error.errors(include_url=False)]
        raise RulesFileError(problems, where=where) from error


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


def _problem(entry: Any, content: dict[str, Any]) -> str:
    kind, message = entry["type"], entry["msg"].removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        message = f"there is no kind {entry['ctx']['tag']!r}: use one of {', '.join((*RUN_KINDS, *SCOPE_KINDS))}"
    hint = _HINTS.get(kind)
    place = _place(entry["loc"], content)
    return f"{place}: {message[:1].lower()}{message[1:]}{f': {hint}' if hint else ''}"


def _place(loc: Sequence[str | int], content: dict[str, Any]) -> str:
    """Where in the file: `rule 3 (name), field`."""
    if not loc or loc[0] != "rules":
        return ".".join(str(part) for part in loc) or "rules"
    if len(loc) < 2 or not isinstance(loc[1], int):
        return "rules"
    found = content["rules"]
    rule = found[loc[1]] if isinstance(found, list) and loc[1] < len(found) else None
    name = rule.get("name") if isinstance(rule, dict) else None
    kind = rule.get("kind") if isinstance(rule, dict) else None
    rest = [str(part) for part in loc[2:] if part != kind]
    text = f"rule {loc[1] + 1}" + (f" ({name})" if isinstance(name, str) else "")
    return text + (f", {'.'.join(rest)}" if rest else "")
