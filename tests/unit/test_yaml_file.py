"""Files of settings: bounds, lines and paths of what is wrong, and no endless aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from agentledger.schemas.yaml_file import PROBLEMS_SHOWN_MAX, YamlFile, YamlFileError, parse_yaml, read_bounded


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Cat(_Strict):
    kind: Literal["cat"]
    lives: int


class Dog(_Strict):
    kind: Literal["dog"]


class Pets(_Strict):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    prices: dict[int, int] = {}
    page: Annotated[str, Field(min_length=3)] | Literal[""] = ""


def parsed(text: str) -> YamlFile:
    return parse_yaml(text.encode(), where="f.yaml", bytes_max=10_000, error=YamlFileError)


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(YamlFileError) as caught:
        parsed(text).checked(Pets)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pets:\n- {kind: cat, lives: x}", "f.yaml:2: pets[0].lives: input should be a valid integer"),
        ("pets:\n- kind: cat\n", "f.yaml:2: pets[0].lives: it is missing"),
        ("pets:\n- kind: cat\n  lives: 9\n  tail: 1", "f.yaml:4: pets[0].tail: there is no such key"),
        ("pets:\n- kind: cow", "f.yaml:2: pets[0]: there is no kind 'cow': use one of 'cat', 'dog'"),
        ("pets:\n- lives: 9", "f.yaml:2: pets[0]: it has no kind"),
        ("prices:\n  1: a", "f.yaml:2: prices[1]: input should be a valid integer"),
        ("page: a", "f.yaml:1: page: string should have at least 3 characters"),
        ("pets: []\npets: []", "f.yaml:1: pets: is said again on line 2"),
        ("- 1", "f.yaml:1: holds a list, not keys with values"),
        ("a: [", "f.yaml:1: is no YAML"),
        ("a: b: c", "f.yaml:1: is no YAML: mapping values are not allowed here"),
        ("a: \x00", "f.yaml: is no YAML"),
        ("a: !!python/name:os.system x", "f.yaml:1: is no YAML: could not determine a constructor"),
        ("a: &a [*a]", "f.yaml: is no YAML"),
        ("#" * 10_001, "f.yaml: has more than 10,000 bytes"),
    ],
)
def test_a_problem_has_file_line_and_path(text: str, problem: str) -> None:
    assert problems(text)[0].startswith(problem)


def test_an_empty_file_holds_nothing() -> None:
    assert parsed("# nothing").content == {}


def test_aliases_of_aliases_end() -> None:
    text = "a0: &a0 [1, 2, 3]\n"
    for depth in range(1, 12):
        text += f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 8)}]\n"
    assert "places, its aliases followed" in problems(text)[0]


def test_a_message_shows_some_problems_and_counts_the_rest() -> None:
    text = "".join(f"k{number}: 1\n" for number in range(PROBLEMS_SHOWN_MAX + 3))
    with pytest.raises(YamlFileError, match=r"k9: there is no such key \(and 3 more\)$") as caught:
        parsed(text).checked(Pets)
    assert len(caught.value.problems) == PROBLEMS_SHOWN_MAX + 3


def test_what_was_given_is_in_no_message() -> None:
    assert "hunter2" not in "".join(problems("prices: {1: hunter2}\npage: [hunter2]"))


def test_a_mapping_from_elsewhere_has_no_lines() -> None:
    with pytest.raises(YamlFileError, match=r"^option: pets\[0\].cat.lives: it is missing$"):
        YamlFile("option", None, {"pets": [{"kind": "cat"}]}, YamlFileError).checked(Pets)


def test_a_file_that_cant_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(YamlFileError, match=r"none\.yaml: can't be read: No such file"):
        read_bounded(tmp_path / "none.yaml", bytes_max=1, error=YamlFileError)
    (tmp_path / "long").write_bytes(b"abc")
    assert read_bounded(tmp_path / "long", bytes_max=1, error=YamlFileError) == b"ab"
