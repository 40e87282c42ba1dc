"""How the programs of this stage end."""

from __future__ import annotations

import logging
import os
from typing import NoReturn

from agentledger.schemas.errors import AgentledgerError

EXIT_FAILED = 70  # EX_SOFTWARE of sysexits.h: a supervisor starts the program again

log = logging.getLogger(__name__)


def die(error: BaseException) -> NoReturn:
    """Say in one line what happened and end the process at once, without acknowledging anything on the way out."""
    text = str(error) if isinstance(error, AgentledgerError) else f"{type(error).__name__}: {error}"
    trace = None if isinstance(error, AgentledgerError) else error  # what we foresaw needs no traceback
    log.critical("stopped: %s", text.replace("\n", " "), exc_info=trace)
    logging.shutdown()
    os._exit(EXIT_FAILED)
