"""What a model answered, gathered from one answer or from the pieces of a stream, so that both give the same digest."""

from __future__ import annotations

import json
from typing import Any

CHARS_MAX = 4 << 20  # of one answer; a longer one, which no model gives today, gets no digest


class Answer:
    """Texts and tool calls in the order in which they came."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tools: dict[Any, tuple[list[str], list[str]]] = {}  # by place in the answer: names, pieces of arguments
        self._objects: dict[Any, Any] = {}  # arguments that came whole
        self._chars = 0

    def add_text(self, text: object) -> bool:
        """A piece of text; whether there was any."""
        if not isinstance(text, str) or not text:
            return False
        if self._has_room(text):
            self._texts.append(text)
        return True

    def add_tool(self, place: object, name: object, arguments: object) -> bool:
        """A piece of a tool call, its arguments as JSON or already read; whether there was any."""
        if not name and not arguments:
            return False
        names, pieces = self._tools.setdefault(place, ([], []))
        if isinstance(name, str) and self._has_room(name):
            names.append(name)
        if isinstance(arguments, str):
            if self._has_room(arguments):
                pieces.append(arguments)
        elif arguments:
            self._objects[place] = arguments
        return True

    @property
    def content(self) -> dict[str, Any] | None:
        """What was answered; None where it was nothing, or too long."""
        if self._chars > CHARS_MAX or not (self._texts or self._tools):
            return None
        tools = [
            {"name": "".join(names), "arguments": self._objects.get(place) or _read("".join(pieces))}
            for place, (names, pieces) in self._tools.items()
        ]
        return {"text": "".join(self._texts), **({"tool_calls": tools} if tools else {})}

    def _has_room(self, text: str) -> bool:
        self._chars += len(text)
        return self._chars <= CHARS_MAX


def _read(arguments: str) -> Any:
    try:
        return json.loads(arguments) if arguments else {}
    except (ValueError, RecursionError):
        return arguments  # a model may write what is no JSON
