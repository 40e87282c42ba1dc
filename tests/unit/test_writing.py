"""What is written into a buffer is what the codec writes, interpreted and compiled."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from librt.strings import BytesWriter

from agentledger.infra.compilation import is_compiled
from agentledger.schemas.catalogue import current_schemas
from agentledger.schemas.codec import Codec
from agentledger.schemas.encoding import LONG
from agentledger.schemas.events import Event
from agentledger.schemas.registry import LockFileRegistry
from agentledger.schemas.writing import compile_tail_writers, put_long
from tests.strategies import any_event

CODEC = Codec(LockFileRegistry())


@given(st.integers(0, 63).flatmap(lambda bits: st.integers(-(2**bits), 2**bits - 1)))
def test_varints_are_those_of_the_codec(number: int) -> None:
    buffer = BytesWriter()
    put_long(buffer, number)
    assert buffer.getvalue() == LONG[number]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_numbers_beyond_64_bits_are_refused(number: int) -> None:
    with pytest.raises(TypeError if is_compiled() else OverflowError):  # compiled, such a number is no machine integer
        put_long(BytesWriter(), number)


@settings(max_examples=60)
@given(any_event(), st.integers(16, 24))  # the envelope has 16, some without defaults
def test_a_tail_is_what_stands_behind_the_other_fields(event: Event, first: int) -> None:
    schema = current_schemas()[type(event).__name__]
    names = [field["name"] for field in schema["fields"]][first:]
    assume(names)
    write_all, write = compile_tail_writers(schema, first)
    whole, by_name = BytesWriter(), BytesWriter()
    write_all(whole, tuple(getattr(event, name) for name in names))
    write(by_name, **{name: getattr(event, name) for name in names})
    assert whole.getvalue() == by_name.getvalue()
    assert CODEC.encode(event).endswith(whole.getvalue())
