"""HTTP sources: busy servers are asked again, and what a server answers is put into words."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_BUSY = (429, 502, 503, 504)
"""Statuses of a server that may answer another time."""
_TRIES = 5
_FIRST = 0.5
"""Seconds before the second try, twice as many before each of the others."""
_LONGEST = 60.0
"""A server that asks for more seconds of patience is not asked again."""
_MEANINGS = {
    401: "it wants a login",
    403: "the address is not for everybody, or its signature has expired",
    429: "too many requests at a time",
}


def is_address(url: str) -> bool:
    """Whether a URL is an address of the web."""
    return url.startswith(("http://", "https://"))


async def open_session(**options: Any) -> Any:
    """A session of aiohttp, for fsspec, that asks a busy server again."""
    import aiohttp

    return aiohttp.ClientSession(middlewares=(ask_again,), **options)


async def ask_again(
    request: Any,
    send: Callable[[Any], Awaitable[Any]],
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Any:
    """Send a request, some times where the server is busy; returns its last answer."""
    for attempt in range(_TRIES):
        answer = await send(request)
        seconds = seconds_to_wait(answer.headers.get("Retry-After"), _FIRST * 2**attempt)
        if answer.status not in _BUSY or attempt == _TRIES - 1 or seconds > _LONGEST:
            break
        answer.release()
        await pause(seconds * random.uniform(1, 1.5))  # noqa: S311 - or all come back at once
    return answer


def seconds_to_wait(retry_after: str | None, usual: float) -> float:
    """How long to wait, by what the server asks for: seconds or a date."""
    if retry_after is None:
        return usual
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return usual


def answer_in(error: BaseException) -> str | None:
    """What a server answered, where that is what an error of aiohttp is about."""
    status = getattr(error, "status", None)
    if not isinstance(status, int) or not hasattr(error, "request_info"):
        return None
    said = f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    said += ", also when it is asked again" if status in _BUSY else ""
    return f"{said}: {_MEANINGS[status]}" if status in _MEANINGS else said


def cause_of(error: BaseException) -> BaseException:
    """What is behind an error: fsspec says that no file is there, whatever a server answers."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return error.__cause__
    return error


def is_missing(error: BaseException) -> bool:
    """Whether a file isn't there, and not that a server can't or won't give it."""
    cause = cause_of(error)
    return cause is error or getattr(cause, "status", None) in (404, 410)
