"""A model client's stream that is recorded while it is read. In all else it is the stream itself."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self


class Listener(Protocol):
    """Who hears what comes through a stream."""

    def saw(self, event: Any) -> bool:
        """One piece has come; whether the reader is to see it."""

    def end(self, error: BaseException | None = None) -> None:
        """The stream has ended."""

    def cancel(self) -> None:
        """The reader has left it."""


class _Watching:
    """What both kinds of stream do. Code that asks for the stream's class gets that of the stream itself."""

    def __init__(self, stream: Any, listener: Listener) -> None:
        self._stream = stream
        self._listener = listener

    @property  # type: ignore[misc]  # object's is writable
    def __class__(self) -> Any:
        return type(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __del__(self) -> None:
        self._listener.cancel()


class RecordedStream(_Watching):
    """An iterator over a stream's pieces."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        while True:
            try:
                event = next(self._stream)
            except StopIteration:
                self._listener.end()
                raise
            except BaseException as error:
                self._listener.end(error)
                raise
            if self._listener.saw(event):
                return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream; what wasn't read is given up."""
        self._listener.cancel()
        self._stream.close()


class RecordedAsyncStream(_Watching):
    """An asynchronous iterator over a stream's pieces."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            try:
                event = await anext(self._stream)
            except StopAsyncIteration:
                self._listener.end()
                raise
            except BaseException as error:
                self._listener.end(error)
                raise
            if self._listener.saw(event):
                return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the stream; what wasn't read is given up."""
        self._listener.cancel()
        await self._stream.close()

    aclose = close
