"""JSON as a stranger sends it: bounded in depth, without what JSON doesn't have, each name once in an object."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from agentledger.producers.gateway.refusals import RefusedRequestError


class _NotJsonError(ValueError):
    """It parses, and yet isn't what JSON (RFC 8259) says."""


def parse_json(body: bytes | str, depth_max: int) -> Any:
    """The value of a JSON text. Raises RefusedRequestError."""
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise _too_deep(depth_max) from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, a number of thousands of digits, and ours
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else _reason(error)
        raise RefusedRequestError(400, "not_json", f"the body is not JSON: {what}{where}") from None
    if _deeper_than(value, depth_max):
        raise _too_deep(depth_max)
    return value


def _reason(error: ValueError) -> str:
    if isinstance(error, _NotJsonError):
        return str(error)
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else "a number is too long"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotJsonError("an object names one member twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _NotJsonError(f"{name} is no JSON number")


def _deeper_than(value: Any, depth_max: int) -> bool:
    """Whether objects and arrays are nested deeper than that; level by level, so that depth costs no recursion."""
    level = [value]
    for _ in range(depth_max):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)


def _too_deep(depth_max: int) -> RefusedRequestError:
    return RefusedRequestError(400, "too_deep", f"the body nests objects and arrays deeper than {depth_max}")
