"""Where what stands in a YAML file, so that a problem can name its line."""

from __future__ import annotations

import yaml


class YamlLines:
    """Lines by place, such as ("budgets", 0, "limits"); `repeated` has one problem for each key that is said twice."""

    def __init__(self, where: str, root: yaml.Node | None) -> None:
        self._where = where
        self._lines: dict[tuple[str | int, ...], int] = {}
        self.repeated: list[str] = []
        if root is not None:
            self._walk(root, ())

    def problem(self, place: tuple[str | int, ...], what: str) -> str:
        """One line about a place: file, line, path, and what is wrong there. Unknown places are those around them."""
        found = place
        while found and found not in self._lines:
            found = found[:-1]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return f"{self._where}:{self._lines.get(found, 1)}: {f'{path}: ' if path else ''}{what}"

    def _walk(self, node: yaml.Node, place: tuple[str | int, ...]) -> None:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                if inner in self._lines:
                    self.repeated.append(self.problem(inner, f"is said again on line {key.start_mark.line + 1}"))
                self._lines[inner] = key.start_mark.line + 1
                self._walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._walk(value, (*place, number))
