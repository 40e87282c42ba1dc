"""Every bound of the gateway, and why that number. Each can be set; what exceeds one is refused with its reason."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class GatewayLimits:
    """Bounds on one request, on all requests under way, and on time."""

    body_bytes_max: int = 4 * MIB  # as sent; OPA's default chunk is 32 KiB, an OTLP batch of 512 spans about 1 MiB
    inflated_bytes_max: int = 16 * MIB  # what a compressed body may become: usual JSON shrinks to a tenth
    events_max: int = 1_000  # in one request: some 20 ms of this process, during which it answers nobody else
    depth_max: int = 32  # nested objects and arrays: an event has 3, a policy's input seldom more than 10
    requests_max: int = 512  # under way at once: twice the connections of a large fleet's agents on one host
    held_bytes_max: int = 256 * MIB  # of all bodies under way, inflated
    connections_max: int = 2_048  # open, busy or not
    queue_records_max: int = 50_000  # given to Kafka's client and not acknowledged yet: seconds of full speed
    body_wait_s_max: float = 10.0  # for a body to arrive whole, so that a trickle holds no place for longer
    head_wait_s_max: float = 10.0  # for a request's head to arrive whole
    ack_wait_s_max: float = 10.0  # for Kafka to acknowledge; a request is answered by then, one way or the other
    events_per_s_max: int = 5_000  # of one key, with twice that at once; a key may have its own
