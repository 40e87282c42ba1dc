"""How the programs of this stage start and end."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NoReturn

from agentledger.schemas.errors import AgentledgerError

EXIT_FAILED = 70  # EX_SOFTWARE of sysexits.h: a supervisor starts the program again
READY_FILE_VARIABLE = "AGENTLEDGER_READY_FILE"

log = logging.getLogger(__name__)


def say_ready() -> None:
    """Write the file that AGENTLEDGER_READY_FILE names, if it names one."""
    name = os.environ.get(READY_FILE_VARIABLE)
    if name:
        path = Path(name)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(f"{os.getpid()}\n", encoding="utf-8")
        partial.replace(path)


def die(error: BaseException) -> NoReturn:
    """Say in one line what happened and end the process at once, without acknowledging anything on the way out."""
    text = str(error) if isinstance(error, AgentledgerError) else f"{type(error).__name__}: {error}"
    trace = None if isinstance(error, AgentledgerError) else error  # what we foresaw needs no traceback
    log.critical("stopped: %s", text.replace("\n", " "), exc_info=trace)
    logging.shutdown()
    os._exit(EXIT_FAILED)
