"""Functions that we write ourselves, as source text, from the schemas: made when they are first needed.

Where the sources were compiled beforehand (`infra/compilation.py`), each text is a module in the package `written`,
named by the text's digest: so what is found there is the same function.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any

PACKAGE = "agentledger.schemas.written_modules"
_DIGITS = 16  # of the digest: two texts are alike once in 2**64


def module_of(source: str) -> str:
    """The name of the module that holds this text, within PACKAGE."""
    return f"f_{hashlib.sha256(source.encode()).hexdigest()[:_DIGITS]}"


def define(source: str, name: str) -> Any:
    """The function of this name in the source text of a whole module."""
    try:
        found: Any = import_module(f"{PACKAGE}.{module_of(source)}")
    except ImportError:
        scope: dict[str, Any] = {}
        exec(compile(source, f"<written {name}>", "exec"), scope)  # noqa: S102 - the text is our own, from our own files
        return scope[name]
    return getattr(found, name)
