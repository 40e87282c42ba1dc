"""Connections that send the head of a request too slowly are closed: each holds a place that another could have.

uvicorn bounds how long a connection may idle between two requests, and not how long a head may take to arrive.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_protocol(head_wait_s_max: float) -> type[H11Protocol]:
    """uvicorn's protocol, patient for that long with a head that isn't whole."""

    class PatientH11Protocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head_timer = self.loop.call_later(head_wait_s_max, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_wait()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._end_wait()
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(head_wait_s_max, self.transport.abort)

        def _end_wait(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return PatientH11Protocol
