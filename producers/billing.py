"""Whether a model call that failed can have cost anything, as far as its error tells."""

from __future__ import annotations

# Errors by which no request left this machine: Python's own, and those of HTTP clients by the name they all use.
_NEVER_SENT = {"ConnectionRefusedError", "gaierror", "ConnectError", "ConnectTimeout", "ConnectTimeoutError"}
# Answers after which the work may have been done all the same: a time-out, a client that hung up, a gateway's time-out.
_MAYBE_SERVED = {408, 499, 504, 524}
CAUSES_MAX = 8  # of an error's causes; clients wrap two or three times


def was_not_billed(error: BaseException) -> bool:
    """True where the provider answered with an HTTP error status, or was never reached.

    False for everything else: a stream that broke off, or a time-out while the model was at it, may well be billed.
    Never raises.
    """
    current: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if current is None:
            return False
        status = http_status(current)
        if status is not None:
            return 400 <= status < 600 and status not in _MAYBE_SERVED
        if any(kind.__name__ in _NEVER_SENT for kind in type(current).__mro__):
            return True
        current = current.__cause__ or current.__context__
    return False


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an error of a client stands for; None where it stands for none. Never raises."""
    try:
        status = getattr(error, "status_code", None)
        if status is None:
            status = getattr(getattr(error, "response", None), "status_code", None)
    except Exception:  # noqa: BLE001 - somebody's property
        return None
    return status if isinstance(status, int) else None
