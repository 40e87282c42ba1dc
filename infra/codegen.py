"""Writes `schemas/events.py` from the catalogue: `python -m agentledger.infra.codegen [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import agentledger.schemas
from agentledger.schemas.catalogue import Schema, current_schemas

_PYTHON_TYPES = {"string": "str", "long": "int", "double": "float", "boolean": "bool"}
ENVELOPE_FIELDS = 16
HEADER = '''"""The typed events. Written from `avro/*.avsc` by `make events`: edit those, not this.

Times are microseconds since 1970 (UTC), money is nano-dollars, ids are canonical lower-case text. What each field means
stands in its schema; `agentledger schemas show NAME` prints it. Events are plain records: treat them as read-only.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Event:
    """The envelope: first in every record."""

'''


def python_type(avro_type: Any) -> str:
    """The Python spelling of a field's Avro type."""
    if isinstance(avro_type, list):
        return f"{python_type(avro_type[1])} | None"
    if isinstance(avro_type, dict) and avro_type["type"] == "map":
        return "dict[str, str]"
    if isinstance(avro_type, dict) and avro_type["type"] == "array":
        return "list[str]"
    return _PYTHON_TYPES[avro_type["type"] if isinstance(avro_type, dict) else avro_type]


def field_line(field: Schema) -> str:
    """One line of a dataclass for one field of a record."""
    line = f"    {field['name']}: {python_type(field['type'])}"
    if "default" not in field:
        return line
    default = field["default"]
    if isinstance(default, (dict, list)):
        return f"{line} = field(default_factory={type(default).__name__})"
    return f'{line} = "{default}"' if isinstance(default, str) else f"{line} = {default!r}"


def events_source() -> str:
    """The whole text of `schemas/events.py`."""
    schemas = current_schemas()
    envelope = next(iter(schemas.values()))["fields"][:ENVELOPE_FIELDS]
    blocks = [HEADER + "\n".join(map(field_line, envelope))]
    for name, schema in schemas.items():
        own = "\n".join(field_line(item) for item in schema["fields"][ENVELOPE_FIELDS:])
        blocks.append(f'@dataclass(slots=True, kw_only=True)\nclass {name}(Event):\n    """{schema["doc"]}"""\n\n{own}')
    listing = "".join(f'    "{name}": {name},\n' for name in schemas)
    blocks.append(f"EVENT_TYPES: dict[str, type[Event]] = {{\n{listing}}}")
    return "\n\n\n".join(blocks) + "\n"


def main() -> int:
    """Write the module, or with --check say whether it is up to date. Exit code 0 where it is."""
    target = Path(next(iter(agentledger.schemas.__path__))) / "events.py"
    source = events_source()
    if "--check" in sys.argv[1:]:
        if target.read_text("utf-8") == source:
            return 0
        sys.stderr.write(f"{target.name} is not what the schemas say: run make events\n")
        return 1
    target.write_text(source, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
