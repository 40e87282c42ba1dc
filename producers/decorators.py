"""Decorators that record: a tool, and a function that is one whole run. For sync and for async functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentledger.producers.runs import Run, current_run
from agentledger.schemas.errors import UsageError

if TYPE_CHECKING:
    from agentledger.producers.calls import ToolCall
    from agentledger.producers.recorder import Ledger

_F = TypeVar("_F", bound=Callable[..., Any])
_INSTANCES = {"self", "cls"}


def recorded_tool(ledger: Ledger, function: _F, run: Run | None, **facts: Any) -> _F:
    """The function, each call of which becomes a tool call of `run`, or else of the run that is open where it's called.

    Outside of any run it works as before, unrecorded, and the ledger is told so. Raises UsageError for a generator.
    """
    _refuse_generator(function)
    name = facts.pop("name", None) or getattr(function, "__name__", type(function).__name__)
    arguments_of = _argument_reader(function)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolCall | None:
        inside = run or current_run()
        if inside is None:
            ledger.tell("no_run", f"{name} was called outside of a run and is not recorded")
            return None
        return inside.tool_call(name, arguments=arguments_of(args, kwargs), **facts)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def recorded_async(*args: Any, **kwargs: Any) -> Any:
            call = begin(args, kwargs)
            if call is None:
                return await function(*args, **kwargs)
            async with call:
                result = await function(*args, **kwargs)
                call.result(result)
                return result

        return cast("_F", recorded_async)

    @functools.wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if call is None:
            return function(*args, **kwargs)
        with call:
            result = function(*args, **kwargs)
            call.result(result)
            return result

    return cast("_F", recorded)


def recorded_run(ledger: Ledger, function: _F, **facts: Any) -> _F:
    """The function, each call of which is a run of its own; inside it, `current_run()` is that run."""
    _refuse_generator(function)
    facts.setdefault("workflow", getattr(function, "__name__", ""))
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            async with ledger.run(**facts):
                return await function(*args, **kwargs)

        return cast("_F", run_async)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with ledger.run(**facts):
            return function(*args, **kwargs)

    return cast("_F", run)


def _refuse_generator(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"{getattr(function, '__name__', function)!r} is a generator, whose end a decorator can't see",
            next_step="use `with run.tool_call(…)` around the loop that consumes it",
        )


def _argument_reader(function: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """A function from a call's arguments to their names and values, without `self`."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        parameters = []
    positional = [item.name for item in parameters if item.kind in {item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD}]

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        named = dict(zip(positional, args, strict=False))
        if positional and positional[0] in _INSTANCES:
            named.pop(positional[0], None)
        rest = args[len(positional) :]
        return {**named, **({"args": rest} if rest else {}), **kwargs}

    return read
