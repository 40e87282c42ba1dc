"""Ports on this machine: a free one, or a plain word about the one that isn't."""

from __future__ import annotations

import random
import socket

from agentledger.schemas.errors import StackError

HOST = "127.0.0.1"
# Below the range that the kernel takes outgoing connections' ports from: a port stays free while its service restarts.
LOWEST, HIGHEST = 20000, 29999
ATTEMPTS = 200


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
    """A port that's free now and not among `taken`."""
    for _ in range(ATTEMPTS):
        port = random.randint(LOWEST, HIGHEST)  # noqa: S311 - nothing secret about it
        if port not in taken and is_free(port):
            return port
    raise StackError(f"no free port found between {LOWEST} and {HIGHEST}", next_step="name the ports yourself")


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
