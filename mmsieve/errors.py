"""What can go wrong, and how far it reaches.

MmsieveError
  RequestError   the request is wrong; found before any model loads, nothing written (exit code 2)
  DeviceError    a device computes no more; what is done is kept, another may go on (exit code 1)
  ShardError     one shard can't be read or finished; it is named, the others go on (exit code 1)
  SampleError    one sample can't be used; it becomes a row whose `status` is the reason
"""

import errno
import signal
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, NoReturn

from mmsieve.sanitize import redact

OK, FAILED, WRONG_REQUEST, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit codes of a command."""


class Status(StrEnum):
    """`status` of a row: `ok`, or why the sample has no result."""

    OK = "ok"
    IMAGE_MISSING = "image_missing"
    IMAGE_UNDECODABLE = "image_undecodable"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    TEXT_MISSING = "text_missing"
    TEXT_UNDECODABLE = "text_undecodable"
    TEXT_TOO_LONG = "text_too_long"
    TOO_MANY_IMAGES = "too_many_images"
    PREPARATION_FAILED = "preparation_failed"
    CONVERSATION_INVALID = "conversation_invalid"
    JSON_INVALID = "json_invalid"
    UNSUPPORTED_MEDIA = "unsupported_media"
    NO_CONVERSATION = "no_conversation"
    NO_USABLE_IMAGE = "no_usable_image"
    DUPLICATE_KEY = "duplicate_key"
    MODEL_OUTPUT_INVALID = "model_output_invalid"
    REQUEST_REFUSED = "request_refused"
    SCORE_NOT_FINITE = "score_not_finite"


def is_order_to_end(error: BaseException) -> bool:
    """Whether an exception is an order to end, and no failure: those that a library raises are,
    panics too, which aren't of the class Exception."""
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, whatever its case; None where none is near."""
    by_lower = {word.lower(): word for word in known}
    near = get_close_matches(given.lower(), by_lower, 1, cutoff=0.75)
    return by_lower[near[0]] if near else None


class MmsieveError(Exception):
    """Base of every error that mmsieve raises on purpose; its message can be shown and stored."""

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(str(message)))


class RequestError(MmsieveError):
    """The request can't be carried out as asked; the message is one line that says the fix."""


class DeviceError(MmsieveError):
    """A device has failed, and would fail at every sample to come."""


class ShardError(MmsieveError):
    """A shard can't be read or finished; the message names the reason, the caller the shard."""


_OF_THE_MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "ESTALE"),
        *("ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENETDOWN", "ENETUNREACH"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "EPIPE", "EREMOTEIO"),
    )
    if hasattr(errno, name)  # not each system has each
)


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, what that was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def check_machine(error: BaseException, what: str) -> None:
    """Raise ShardError where an error is the machine's, and not the fault of a sample.

    Such as a full disk, too many open files, a storage without an answer: another time the same
    sample may do, so nothing may be written of it.
    """
    for cause in causes_of(error):
        if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
            raise ShardError(f"{what}: {cause}") from error


class SampleError(MmsieveError):
    """A sample can't be used: `status` says why in one word, the message in a line."""

    def __init__(self, status: Status, message: str, known: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.known = known or {}
        """Values of the method's columns that are known all the same."""

    def knowing(self, known: dict[str, Any]) -> "SampleError":
        """The same error, with what is known of the sample."""
        return SampleError(self.status, str(self), self.known | known)

    def __reduce__(self) -> tuple[type["SampleError"], tuple[Status, str, dict[str, Any]]]:
        return SampleError, (self.status, str(self), self.known)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM has come: everything ends as with an interrupt."""


_orders: list[KeyboardInterrupt] = []


def order_to_end(order: KeyboardInterrupt) -> NoReturn:
    """Raise what a signal orders, and remember it: a library may make another error of it."""
    _orders[:] = [order]
    raise order


def heed_orders() -> None:
    """Raise what a signal has ordered, where a library may have swallowed it."""
    if _orders:
        raise _orders[0]


def forget_orders() -> None:
    """Begin anew: no signal has ordered anything yet."""
    _orders.clear()


def as_ordered(error: BaseException) -> BaseException:
    """An error, or the order to end that a library has made it of, as DuckDB does."""
    return error if is_order_to_end(error) or not _orders else _orders[0]


def exit_code(error: BaseException) -> int:
    """The exit code of a command that an exception ends."""
    is_terminated = isinstance(error, SystemExit) and error.code == signal.SIGTERM  # Ray's handler
    if isinstance(error, TerminatedError) or is_terminated:
        return TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return WRONG_REQUEST if isinstance(error, RequestError) else FAILED
