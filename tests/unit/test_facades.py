"""Each area's `__init__.py` is its facade: a sorted `__all__` that names exactly what it imports."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "area",
    [
        "schemas",
        "producers",
        "processors",
        "sinks",
        "infra/stack",
        "producers/gateway",
        "producers/importers",
        "producers/otel",
        "producers/outbox",
    ],
)
def test_a_facade_exports_what_it_says_sorted(area: str) -> None:
    tree = ast.parse((ROOT / area / "__init__.py").read_text("utf-8"))
    [exported] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    public = [name for name in exported if name.isupper()], [name for name in exported if not name.isupper()]
    assert public[0] == sorted(public[0])
    own = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentledger.")
        for name in node.names
    } - {"importing"}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    constants = {ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign)}
    assert set(exported) <= own | defined | constants
    assert len(set(exported)) == len(exported)
    if area in {"schemas", "producers", "processors", "sinks"}:
        assert set(exported) == own


@pytest.mark.parametrize("area", ["schemas", "producers", "processors", "sinks", "infra.stack", "producers.outbox"])
def test_a_facade_finds_each_name_where_types_are_told_it_is(area: str) -> None:
    facade = importlib.import_module(f"agentledger.{area}")
    tree = ast.parse((ROOT / area.replace(".", "/") / "__init__.py").read_text("utf-8"))
    told = {
        name.name: getattr(importlib.import_module(node.module), name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("agentledger.")
        for name in node.names
        if name.name != "importing"
    }
    assert {name: getattr(facade, name) for name in facade.__all__} == told
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        facade.nothing  # noqa: B018 - asking is the point
