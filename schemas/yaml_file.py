"""Files of settings in YAML: read with bounds, keys said twice refused, each problem with its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from agentledger.schemas.errors import ConfigurationError

PLACES_MAX = 500_000  # aliases of aliases make a small file endless; the largest price file has a fifth of this
PROBLEMS_SHOWN_MAX = 10  # in one message: more than a screen of them is read by nobody

Place = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class YamlFileError(ConfigurationError):
    """A file is wrong; `problems` has one line for each thing: file, line, path, and what is wrong."""

    advice: ClassVar[str] = ""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        left = len(self.problems) - PROBLEMS_SHOWN_MAX
        shown = "; ".join(self.problems[:PROBLEMS_SHOWN_MAX])
        super().__init__(f"{shown} (and {left} more)" if left > 0 else shown, next_step=self.advice)


class YamlFile:
    """A parsed file: `content` (an empty file is an empty mapping), and the line of each place, such as
    ("budgets", 0, "limits"). Without a `root` it is a mapping from elsewhere, whose problems have no lines.
    """

    def __init__(self, where: str, root: yaml.Node | None, content: Any, error: type[YamlFileError]) -> None:
        self.content: Any = {} if content is None else content
        self._where = where
        self._error = error
        self._lines: dict[tuple[str, ...], int] = {}
        self._repeated: list[str] = []
        if root is not None:
            self._walk(root, ())
        if self._repeated:
            raise error(self._repeated)
        if not isinstance(self.content, dict):
            raise error([self.problem((), f"holds a {type(content).__name__}, not keys with values")])

    def problem(self, place: Place, what: str) -> str:
        """One line about a place: file, line, path, and what is wrong there. Unknown places are those around them."""
        found = _key(place)
        while found and found not in self._lines:
            found = found[:-1]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        line = f":{self._lines.get(found, 1)}" if self._lines else ""
        return f"{self._where}{line}: {f'{path}: ' if path else ''}{what}"

    def checked(self, model: type[M], content: Any = None) -> M:
        """The content as a model; `content`, where what the file holds was changed first. Raises the file's error
        with all that is wrong. What was given is in no problem: it may be a secret.
        """
        try:
            return model.model_validate(self.content if content is None else content)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            problems = [self.problem(self._place(item), _what(item)) for item in found]
            raise self._error(problems) from None

    def _place(self, item: Any) -> Place:
        """Without what pydantic puts into a path and no file says: the kind in a union, the name of a type."""
        loc: Place = item["loc"]
        if not self._lines:
            return loc
        place: Place = ()
        for number, part in enumerate(loc):
            is_known = _key((*place, part)) in self._lines
            if is_known or (item["type"] == "missing" and number == len(loc) - 1):
                place = (*place, part)
        return place

    def _walk(self, node: yaml.Node, place: Place) -> None:
        if len(self._lines) > PLACES_MAX:
            raise self._error([f"{self._where}: has more than {PLACES_MAX:,} places, its aliases followed"])
        self._lines.setdefault(_key(place), node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                if _key(inner) in self._lines:
                    again = f"is said again on line {key.start_mark.line + 1}"
                    self._repeated.append(self.problem(inner, again))
                self._lines[_key(inner)] = key.start_mark.line + 1
                self._walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._walk(value, (*place, number))


def read_bounded(path: Path, *, bytes_max: int, error: type[YamlFileError]) -> bytes:
    """The file's bytes, one more than `bytes_max` at most. Raises `error`."""
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except OSError as problem:
        raise error([f"{path}: can't be read: {problem.strerror or problem}"]) from None


def parse_yaml(raw: bytes, *, where: str, bytes_max: int, error: type[YamlFileError]) -> YamlFile:
    """The file in these bytes of YAML 1.1. Raises `error`: too large, no YAML, a key said twice, no mapping."""
    if len(raw) > bytes_max:
        raise error([f"{where}: has more than {bytes_max:,} bytes"])
    try:
        loader = yaml.SafeLoader(raw)
        try:
            root = loader.get_single_node()
            content = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
        return YamlFile(where, root, content, error)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        raise error([f"{place}: is no YAML: {getattr(problem, 'problem', None) or 'unreadable'}"]) from None


def _key(place: Place) -> tuple[str, ...]:
    return tuple(map(str, place))  # pydantic has the keys of a mapping as they were converted


def _what(item: Any) -> str:
    match item["type"]:
        case "extra_forbidden":
            return "there is no such key"
        case "missing":
            return "it is missing"
        case "union_tag_not_found":
            return f"it has no {str(item['ctx']['discriminator']).strip(chr(39))}"
        case "union_tag_invalid":
            return f"there is no kind {item['ctx']['tag']!r}: use one of {item['ctx']['expected_tags']}"
        case _:
            what = str(item["msg"]).removeprefix("Value error, ")
            return what[:1].lower() + what[1:]
