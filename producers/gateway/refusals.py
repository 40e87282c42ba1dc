"""What the gateway answers where it refuses: a status, a reason for programs, a sentence for people."""

from __future__ import annotations

from typing import Any

from agentledger.schemas.errors import AgentledgerError


class RefusedRequestError(AgentledgerError):
    """A whole request is refused. `reason` is a word that stays the same; `retry_after_s`: where waiting helps."""

    def __init__(
        self, status: int, reason: str, what: str, *, next_step: str = "", retry_after_s: int | None = None
    ) -> None:
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(what, next_step=next_step)

    def body(self) -> dict[str, Any]:
        """The refusal as JSON."""
        return {"error": {"reason": self.reason, "message": str(self)}}

    def headers(self) -> dict[str, str]:
        """Retry-After, in seconds (RFC 9110, section 10.2.3), and what a 401 must say."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="agentledger"'
        return headers


class RefusedEventError(AgentledgerError):
    """One event of a request is refused. `path` is a JSON pointer (RFC 6901) into that event."""

    def __init__(self, reason: str, path: str, what: str, *, next_step: str = "") -> None:
        self.reason = reason
        self.path = path
        super().__init__(what, next_step=next_step)


def pointer(*names: str | int) -> str:
    """The JSON pointer to a member; half of a surrogate pair, which no answer can hold, as its escape."""
    path = "".join("/" + str(name).replace("~", "~0").replace("/", "~1") for name in names)
    return path.encode("utf-8", "backslashreplace").decode()
