"""How many files this process may have open: few by default, more where it asks."""

from __future__ import annotations

import contextlib
import resource


def allow_open_files(wanted: int) -> int:
    """Let the process open ``wanted`` files, or as many as the system lets it; return how many it may open, up to that.

    What other programs expect of the limit (`select` takes 1,024) does not matter to processes that we start.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, reachable = (wanted if limit == resource.RLIM_INFINITY else min(limit, wanted) for limit in (now, most))
    if allowed < reachable:
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, most))
            allowed = reachable
    return allowed
