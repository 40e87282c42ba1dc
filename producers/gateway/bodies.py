"""A request's body: read within a time and a size, inflated within a size."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import zstandard

from agentledger.producers.gateway.limits import GatewayLimits
from agentledger.producers.gateway.refusals import RefusedRequestError

ZSTD_WINDOW_BYTES_MAX = 8 * 1024 * 1024  # what RFC 8878 asks every decoder to support, and no more
# Four bytes of zstd can become a block of 128 KiB, so this many become 16 MiB at the most before they are counted.
_ZSTD_STEP_BYTES = 512
_GZIP = 31  # zlib's wbits for the gzip format alone
_LENGTH_DIGITS_MAX = 18


async def read_body(
    chunks: AsyncIterator[bytes], *, content_length: str | None, content_encoding: str, limits: GatewayLimits
) -> bytes:
    """The body, inflated. Raises RefusedRequestError: too large, too slow, not what its encoding says."""
    if content_length and content_length.isdigit() and int(content_length[:_LENGTH_DIGITS_MAX]) > limits.body_bytes_max:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_wait_s_max):
            async for chunk in chunks:
                body += chunk
                if len(body) > limits.body_bytes_max:
                    raise _too_large(limits)
    except TimeoutError:
        raise RefusedRequestError(
            408, "body_too_slow", f"the body did not arrive within {limits.body_wait_s_max:g} s"
        ) from None
    return inflate(bytes(body), content_encoding, limits.inflated_bytes_max)


def inflate(body: bytes, content_encoding: str, bytes_max: int) -> bytes:
    """The body without its content coding: identity, gzip or zstd. Raises RefusedRequestError."""
    coding = content_encoding.strip().lower()
    if coding in {"", "identity"}:
        return body
    if coding not in {"gzip", "x-gzip", "zstd"}:
        raise RefusedRequestError(
            415, "unknown_encoding", f"the content encoding {coding[:40]!r} is not understood",
            next_step="send gzip, zstd or no encoding",
        )  # fmt: skip
    try:
        plain, is_whole = (_inflate_zstd if coding == "zstd" else _inflate_gzip)(body, bytes_max + 1)
    except (zlib.error, zstandard.ZstdError) as error:
        raise _not_whole(coding, str(error)) from None
    if len(plain) > bytes_max:
        raise RefusedRequestError(
            413, "inflated_too_large", f"the body inflates to more than {bytes_max:,} bytes",
            next_step="send fewer events in one request",
        )  # fmt: skip
    if not is_whole:
        raise _not_whole(coding, "it ends too early, or something follows it")
    return plain


def _inflate_gzip(body: bytes, bytes_max: int) -> tuple[bytes, bool]:
    """Up to `bytes_max` bytes, and whether that is all: one member, as senders of bodies write it."""
    inflater = zlib.decompressobj(_GZIP)
    plain = inflater.decompress(body, bytes_max)
    return plain, inflater.eof and not inflater.unused_data


def _inflate_zstd(body: bytes, bytes_max: int) -> tuple[bytes, bool]:
    """Up to `bytes_max` bytes, and whether that is all: one frame."""
    inflater = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX).decompressobj()
    plain = bytearray()
    for start in range(0, len(body), _ZSTD_STEP_BYTES):
        plain += inflater.decompress(body[start : start + _ZSTD_STEP_BYTES])
        if len(plain) >= bytes_max or inflater.eof:
            rest = len(body) - start - _ZSTD_STEP_BYTES
            return bytes(plain), inflater.eof and rest <= 0 and not inflater.unused_data
    return bytes(plain), False


def _too_large(limits: GatewayLimits) -> RefusedRequestError:
    return RefusedRequestError(
        413, "body_too_large", f"the body has more than {limits.body_bytes_max:,} bytes",
        next_step="send fewer events in one request, or compress them",
    )  # fmt: skip


def _not_whole(coding: str, why: str) -> RefusedRequestError:
    return RefusedRequestError(400, "damaged_body", f"the body is not one whole {coding} stream: {why}"[:300])
