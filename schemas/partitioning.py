"""Which partition a key lies in: what every producer of ours does, said as a function.

Our producers leave librdkafka's partitioner at its default, `consistent_random`: CRC-32 of the key modulo the count
(an empty key goes anywhere). A client in another language must set the same one (Java's default, murmur2, differs):
one writer decides for a tenant only because all of the tenant's records lie in one partition.
"""

from __future__ import annotations

import zlib


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key in a topic of that many partitions. An empty key, which has no home, is given 0."""
    return zlib.crc32(key) % partitions
