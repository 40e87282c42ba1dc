"""One POST to somebody's address: bounded in time, without redirects, and to no private address unless allowed.

The name is resolved once and that very address is connected to, so an answer of the DNS that changes in between changes
nothing. A redirect is an answer like any other: it is not followed.
"""

from __future__ import annotations

import email.utils
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import httpcore

from agentledger.sinks.notify.incidents import Outcome

CONNECT_S_MAX = 5.0
TOTAL_S_MAX = 10.0  # PagerDuty and Slack answer within one; a person waits for what comes next
ACCEPTED = range(200, 300)
_TRY_AGAIN = {408, 425, 429}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PrivateAddressError(Exception):
    """The name stands for an address inside one's own network."""


def is_allowed(address: str, *, allow_private: bool) -> bool:
    """Whether a page may go to this IP address. With `allow_private` private and loopback ones, too; never link-local
    ones, where clouds keep their machines' credentials, nor multicast."""
    ip = _inner(ipaddress.ip_address(address))
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return False
    return ip.is_global or (allow_private and (ip.is_private or ip.is_loopback))


def post(url: str, headers: Mapping[str, str], body: bytes, *, allow_private: bool) -> Outcome:
    """Send the body and say what became of it. Raises nothing that the other side can bring about."""
    backend = _CheckedBackend(allow_private=allow_private, deadline=time.monotonic() + TOTAL_S_MAX)
    sent = [*headers.items(), ("Connection", "close")]
    timeouts = {"connect": CONNECT_S_MAX, "read": TOTAL_S_MAX, "write": TOTAL_S_MAX, "pool": CONNECT_S_MAX}
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend) as pool,
            pool.stream("POST", url, headers=sent, content=body, extensions={"timeout": timeouts}) as answer,
        ):
            return outcome_of(answer.status, _header(answer.headers, b"retry-after"), time.time())
    except PrivateAddressError:
        return Outcome("refused")
    except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.UnsupportedProtocol):
        return Outcome("unreachable")
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError):
        return Outcome("unsure")


def warm_up() -> None:
    """Read the authorities now, so that the first page needn't wait some tenths of a second for it."""
    _tls()


def outcome_of(status: int, retry_after: str, now_s: float) -> Outcome:
    """What an HTTP status says about the page: taken, to be tried again, or refused for good."""
    if status in ACCEPTED:
        return Outcome(http_status=status)
    if status in _TRY_AGAIN or status >= 500:
        return Outcome("busy", status, retry_after_s(retry_after, now_s))
    return Outcome("refused", status)


def retry_after_s(header: str, now_s: float) -> float:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3), of either form; 0 where it says nothing."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return 0.0


@cache
def _tls() -> ssl.SSLContext:
    """The system's authorities; reading them takes a while, so once."""
    return ssl.create_default_context()


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), "")


def _inner(ip: Address) -> Address:
    """The IPv4 address inside an IPv6 one that is only its wrapping."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


class _CheckedBackend(httpcore.NetworkBackend):
    """Resolves a name once, refuses what isn't allowed, and connects to one of the addresses that were checked."""

    def __init__(self, *, allow_private: bool, deadline: float) -> None:
        self._allow_private = allow_private
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from None
        addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
        if not addresses or not all(is_allowed(one, allow_private=self._allow_private) for one in addresses):
            raise PrivateAddressError(host)
        stream = self._plain.connect_tcp(addresses[0], port, timeout, local_address, socket_options)
        return _BoundedStream(stream, self._deadline)


class _BoundedStream(httpcore.NetworkStream):
    """A connection that ends at the deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def _left_s(self, error: type[Exception]) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise error("out of time")
        return left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left_s(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left_s(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left_s(httpcore.ConnectTimeout)
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
