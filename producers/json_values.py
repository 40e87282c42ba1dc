"""JSON values of recordings and spans: read exactly, taken for what they are, digested the same however written.

Fractions become `Decimal` and integers stay Python integers, so money and 128-bit trace ids keep every digit.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from agentledger.schemas import canonical_json, digest_bytes, usd_to_nanousd
from agentledger.schemas.errors import ImportFormatError, MoneyError

MESSAGE_CHARS_MAX = 300
_HOME = re.compile(r"(/Users/|/home/|[A-Za-z]:\\Users\\)[^/\\\s\"']+")


def parse_json(content: bytes | str, *, where: str = "") -> Any:
    """The JSON value, with fractions as Decimal. Raises ImportFormatError."""
    try:
        return json.loads(content, parse_float=Decimal, parse_constant=_refuse_constant)
    except RecursionError:
        raise ImportFormatError("the JSON is nested too deeply", where=where) from None
    except (ValueError, ArithmeticError) as error:
        raise ImportFormatError(f"not valid JSON: {error}", where=where) from None


def parse_json_text(text: str, *, layers_max: int = 3) -> Any:
    """What JSON written as a string stands for, also if it was written so twice; else the text itself."""
    value: Any = text
    for _ in range(layers_max):
        if not isinstance(value, str):
            break
        try:
            value = parse_json(value)
        except ImportFormatError:
            break
    return value


def digest_and_size(value: Any) -> tuple[str, int]:
    """`sha256:…` of the value in canonical JSON, and that JSON's size in bytes: equal values have equal digests."""
    content = canonical_json(plain(value))
    return digest_bytes(content), len(content)


def plain(value: Any) -> Any:
    """The value as canonical JSON takes it: decimals as doubles (RFC 8785), lone surrogates replaced."""
    if isinstance(value, str):
        return value if value.isascii() else clean_text(value)
    if isinstance(value, dict):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        double = float(value)
        return double if abs(double) != float("inf") else str(value)
    return value


def clean_text(text: str) -> str:
    """The text with lone surrogates, which UTF-8 can't hold, replaced by `?`."""
    return text.encode("utf-8", "replace").decode()


def short_text(value: Any, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """The value as text for an event: no lone surrogates, no login name in a home folder's path, cut to a bound."""
    text = _HOME.sub(r"\1…", clean_text(str(value)[: chars_max + 200]))
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def cost_nanousd(amount_usd: Any) -> int | None:
    """The amount in nano-dollars; None where there is none. Raises ImportFormatError where it isn't an amount."""
    if amount_usd is None or isinstance(amount_usd, bool):
        return None
    try:
        return usd_to_nanousd(amount_usd)
    except MoneyError as error:
        raise ImportFormatError(error.what) from None


def as_dict(value: Any) -> dict[str, Any]:
    """The value where it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value where it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """The value where it is a text, else an empty one."""
    return clean_text(value) if isinstance(value, str) else ""


def as_count(value: Any) -> int | None:
    """The value where it is a count of 0 or more, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def as_ms(value: Any) -> float | None:
    """The value where it is a number of milliseconds, else None."""
    if not isinstance(value, int | Decimal) or isinstance(value, bool) or not 0 <= value < 2**53:
        return None
    return float(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
