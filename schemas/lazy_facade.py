"""Facades that import a name's module when the name is asked for: a command pays for what it uses alone (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def importing(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """A `__getattr__` for this package: each name comes from its module of it, at the first use.

    A module of the package is named as itself. Raises AttributeError where a name isn't the package's.
    """

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        value = module if name == modules[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return get
