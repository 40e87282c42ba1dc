"""uvicorn on a socket of our own, until it is told to stop: what every program of ours that answers HTTP runs on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Generator

import uvicorn

from agentledger.schemas.errors import ConfigurationError

LOOPBACK_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})


def open_listener(program: str, host: str, port: int) -> socket.socket:
    """The socket that the program listens on. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"the {program} can't listen on {host}, port {port}: {error.strerror}",
            next_step="choose others with --host and --port",
        ) from None
    return listener


class StoppableServer(uvicorn.Server):
    """Ends when it is told to, not by signals of its own: a program has more to end than this."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the program."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that it is ready once it listens."""
        await super().startup(sockets)
        self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, ten times a second."""
        return await super().on_tick(counter) or self._stop.is_set()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until stopped."""
        asyncio.run(self.serve(sockets))
