"""What a request is refused with."""

from __future__ import annotations

from transformer_mt.errors import TmtError

GONE = 499  # what proxies count a client under that has not waited for its answer


class RequestError(TmtError):
    """A request that is not answered: its HTTP status, and one line that says why."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        """``retry_after``: seconds after which the same request may succeed."""
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status in (408, 413):  # the rest of the body is not waited for
            self.headers["Connection"] = "close"
