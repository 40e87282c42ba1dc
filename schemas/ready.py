"""How a program tells whoever started it that it works."""

from __future__ import annotations

import os
from pathlib import Path

READY_FILE_VARIABLE = "AGENTLEDGER_READY_FILE"


def say_ready() -> None:
    """Write the file that AGENTLEDGER_READY_FILE names, if it names one; whole, or not at all."""
    name = os.environ.get(READY_FILE_VARIABLE)
    if name:
        path = Path(name)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(f"{os.getpid()}\n", encoding="utf-8")
        partial.replace(path)
