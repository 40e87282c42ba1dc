"""Money as a signed 64-bit count of nano-dollars; floats touch no sum."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

from agentledger.schemas.errors import MoneyError

NANOUSD_PER_USD = 1_000_000_000
NANOUSD_MAX = 2**63 - 1
MS_PER_HOUR = 3_600_000


def usd_to_nanousd(amount_usd: Decimal | str | int | float) -> int:
    """The amount in nano-dollars, rounded half to even (IEEE 754's roundTiesToEven, the rule without drift).

    A float counts as the shortest decimal that it prints as, so 0.41 is 410_000_000 and not its binary neighbour.
    Raises MoneyError where the amount isn't a finite number or leaves the 64-bit range.
    """
    try:
        exact = Decimal(repr(amount_usd)) if isinstance(amount_usd, float) else Decimal(amount_usd)
        nanousd = int((exact * NANOUSD_PER_USD).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
    except (InvalidOperation, ValueError, TypeError, OverflowError):
        raise MoneyError(
            f"{amount_usd!r} is not an amount in US dollars", next_step="give a finite decimal number"
        ) from None
    if abs(nanousd) > NANOUSD_MAX:
        raise MoneyError(f"{amount_usd} US dollars do not fit 64 bits of nano-dollars", next_step="check the unit")
    return nanousd


def format_usd(nanousd: int | None, *, places: int = 4) -> str:
    """The amount for people, such as `$0.4100`; `unpriced` for None. Rounded half to even at `places` decimals."""
    if nanousd is None:
        return "unpriced"
    usd = (Decimal(nanousd) / NANOUSD_PER_USD).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
    return f"{'-' if nanousd < 0 else ''}${abs(usd):,f}"


def cost_of_time(duration_ms: int, nanousd_per_hour: int) -> int:
    """What so much time costs at an hourly rate, nano-dollars, rounded half to even. Both must not be negative."""
    whole, rest = divmod(duration_ms * nanousd_per_hour, MS_PER_HOUR)
    return whole + (rest * 2 > MS_PER_HOUR or (rest * 2 == MS_PER_HOUR and whole % 2 == 1))
