"""Ports on this machine: a free one, or a plain word about the one that isn't."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections import deque

from agentledger.schemas.errors import ConfigurationError, StackError

HOST = "127.0.0.1"
# Below the range that the kernel takes outgoing connections' ports from: a port stays free while its service restarts.
LOWEST, HIGHEST = 20000, 29999
RANGE_VARIABLE = "AGENTLEDGER_PORT_RANGE"  # such as 21000-21999: who starts several stacks at once keeps them apart
ATTEMPTS = 200
# What this process was given last, whether or not anything listens there yet; more than it starts in one go.
_given: deque[int] = deque(maxlen=100)


def is_free(port: int) -> bool:
    """True if a server can listen on this port of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(taken: frozenset[int] | set[int] = frozenset()) -> int:
    """A port of the range that's free now, not among `taken`, and none of the last ones that this process was given.

    Raises StackError where there is none, ConfigurationError where `AGENTLEDGER_PORT_RANGE` is no range.
    """
    lowest, highest = port_range()
    for _ in range(ATTEMPTS):
        # Not `random`: a test that sets its seed would have every process try the same ports in the same order.
        port = lowest + secrets.randbelow(highest - lowest + 1)
        if port not in taken and port not in _given and is_free(port):
            _given.append(port)
            return port
    raise StackError(f"no free port found between {lowest} and {highest}", next_step="name the ports yourself")


def port_range() -> tuple[int, int]:
    """The lowest and the highest port that may be chosen: those of `AGENTLEDGER_PORT_RANGE`, or ours."""
    given = os.environ.get(RANGE_VARIABLE, "")
    if not given:
        return LOWEST, HIGHEST
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", given)
    lowest, highest = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < lowest < highest < 65536:
        raise ConfigurationError(
            f"{RANGE_VARIABLE} is {given!r}, which is no range of ports", next_step="give two, such as 21000-21999"
        )
    return lowest, highest


def check_port_free(name: str, port: int, option: str = "") -> None:
    """Raise a StackError that names the port, and the option that changes it, if something listens there already."""
    if not 0 < port < 65536:
        raise StackError(f"{port} is not a port for {name}", next_step=f"give {option or 'a port'} from 1 to 65535")
    if not is_free(port):
        raise StackError(
            f"port {port} for {name} is used by another program",
            next_step=f"choose another with {option or 'its option'}, or leave the option out for a free one",
        )


def accepts(port: int, timeout: float = 0.2) -> bool:
    """True if something on this machine accepts connections on the port."""
    try:
        with socket.create_connection((HOST, port), timeout):
            return True
    except OSError:
        return False
