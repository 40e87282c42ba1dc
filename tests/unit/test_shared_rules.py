"""Money, identity and hashing."""

from __future__ import annotations

import hashlib
import re
import uuid
from decimal import Decimal

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.errors import AgentledgerError, MoneyError
from agentledger.schemas.hashing import LeafHasher, canonical_json, headers_digest
from agentledger.schemas.identity import content_id, derived_id, event_time_ms, uuid7
from agentledger.schemas.money import NANOUSD_MAX, format_usd, usd_to_nanousd

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner),
    max_leaves=12,
)
TIMES_US = st.integers(0, 2**47 * 1000)


@pytest.mark.parametrize(
    ("usd", "nanousd"),
    [
        (0.41, 410_000_000),
        ("0.0000042", 4_200),
        (0.0038460000000000005, 3_846_000),
        (Decimal("0.0000000005"), 0),  # half to even
        (Decimal("0.0000000015"), 2),
        (-1, -1_000_000_000),
    ],
)
def test_dollars_become_nanodollars_exactly_or_half_to_even(usd: float | str | Decimal, nanousd: int) -> None:
    assert usd_to_nanousd(usd) == nanousd


@pytest.mark.parametrize("usd", ["nan", "Infinity", "a lot", float("nan"), 10**10, None])
def test_what_is_no_amount_is_refused(usd: str | float) -> None:
    with pytest.raises(MoneyError):
        usd_to_nanousd(usd)


@given(st.integers(-NANOUSD_MAX, NANOUSD_MAX))
def test_an_amount_survives_the_way_through_dollars(nanousd: int) -> None:
    assert usd_to_nanousd(Decimal(nanousd) / 10**9) == nanousd


def test_amounts_for_people() -> None:
    assert (format_usd(410_000_000), format_usd(None), format_usd(-5), format_usd(1_234_500_000_000, places=2)) == (
        "$0.4100", "unpriced", "-$0.0000", "$1,234.50",
    )  # fmt: skip


@given(TIMES_US, TIMES_US)
def test_ids_are_uuids_in_the_order_of_their_time(first_us: int, second_us: int) -> None:
    first, second = uuid7(first_us), content_id(second_us, "a")
    assert (uuid.UUID(first).version, uuid.UUID(second).version) == (7, 8)
    assert uuid.UUID(first).variant == uuid.UUID(second).variant == uuid.RFC_4122
    assert (event_time_ms(first), event_time_ms(second)) == (first_us // 1000, second_us // 1000)
    if first_us // 1000 != second_us // 1000:
        assert (first < second) == (first_us < second_us)


@given(TIMES_US, st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), min_size=1, max_size=3))
def test_content_names_its_id(at_us: int, parts: list[str], others: list[str]) -> None:
    assert content_id(at_us, *parts) == content_id(at_us, *parts)
    if "\x1f".join(parts) != "\x1f".join(others):
        assert content_id(at_us, *parts) != content_id(at_us, *others)
        base = uuid7(at_us)
        assert derived_id(base, *parts) != derived_id(base, *others)
        assert event_time_ms(derived_id(base, *parts)) == at_us // 1000


def test_a_derived_id_is_the_time_and_a_hash_as_a_uuid_of_version_8() -> None:
    for number in range(300):
        base, part = uuid7(1_700_000_000_000_000), str(number)
        bits = int.from_bytes(hashlib.sha256(f"{base}\x1f{part}".encode()).digest()[:10], "big")
        high, low = bits >> 62 & 0xFFF, bits & (1 << 62) - 1
        time = int(base[:8] + base[9:13], 16)
        expected = uuid.UUID(int=time << 80 | 8 << 76 | high << 64 | 2 << 62 | low)
        assert derived_id(base, part) == str(expected)


@given(JSON)
def test_canonical_json_is_that_of_rfc_8785(value: object) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


def test_huge_integers_become_text() -> None:
    assert canonical_json({"trace": 2**127}) == b'{"trace":"%d"}' % 2**127


def test_a_leaf_commits_to_every_part() -> None:
    parts = (5, 3, 1_700_000_000_000_000, b"id", b"s" * 32, b"k" * 32, b"h" * 32, b"v" * 32)
    leaves = {LeafHasher(b"t" * 16, 0).leaf(*parts), LeafHasher(b"u" * 16, 0).leaf(*parts)}
    leaves.add(LeafHasher(b"t" * 16, 1).leaf(*parts))
    for place in range(len(parts)):
        part = parts[place]
        changed = part + 1 if isinstance(part, int) else bytes([part[0] ^ 1]) + part[1:]
        leaves.add(LeafHasher(b"t" * 16, 0).leaf(*parts[:place], changed, *parts[place + 1 :]))  # type: ignore[arg-type]
    assert len(leaves) == 3 + len(parts)


def test_a_leaf_is_laid_out_as_documented() -> None:
    def prefixed(part: bytes) -> bytes:
        return len(part).to_bytes(4, "big") + part

    numbers = [number.to_bytes(8, "big") for number in (5, 3, 7)]
    parts = [
        b"agentledger.leaf.v1",
        b"t" * 16,
        (2).to_bytes(4, "big"),
        *numbers,
        b"id",
        *[c * 32 for c in (b"s", b"k", b"h", b"v")],
    ]
    expected = hashlib.sha256(b"\x00" + b"".join(map(prefixed, parts))).digest()
    assert LeafHasher(b"t" * 16, 2).leaf(5, 3, 7, b"id", b"s" * 32, b"k" * 32, b"h" * 32, b"v" * 32) == expected


def test_headers_are_told_apart() -> None:
    samples = [None, [("a", b"bc")], [("ab", b"c")], [("a", b"b"), ("c", b"")], [("c", b""), ("a", b"b")]]
    assert len({headers_digest(sample) for sample in samples}) == len(samples)


def test_an_error_says_what_where_and_what_next() -> None:
    error = AgentledgerError("it broke", where="here", next_step="mend it")
    assert re.fullmatch(r"it broke \(here\): mend it", str(error))
