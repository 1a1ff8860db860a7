"""Connections to models behind an API: how one is reached, and why a request got no answer."""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from mmsieve.errors import MmsieveError
from mmsieve.http import seconds_to_wait
from mmsieve.patience import PATIENCE
from mmsieve.sanitize import redact
from mmsieve.stores.asking import one_line

Trouble: TypeAlias = Literal["stop", "refused", "busy", "down", "failed"]
"""stop: no request can succeed (key, model, money, patience). refused: this request can't (400 and
the like). busy: it is to come again later (429). down: the server can't be reached, or says that
it isn't ready (503). failed: it went wrong (500, silence, a cut answer), and may not again."""

_STOP = (401, 402, 403, 404)
_REFUSED = (400, 413, 415, 422)
_BUSY = (429,)
_DOWN = (502, 503, 504, 529)
_UNREACHABLE = ("ConnectError", "ConnectTimeout")
"""What the SDKs' HTTP library raises before a request is sent."""
_KEY_LIKE = re.compile(r"\b(sk|key)-[\w*.-]{6,}")
_LONGEST_WAIT = 60.0
"""Seconds of a pause that a server asks for, at most: then it is asked all the same."""
_LONGEST = 300
_SECRET = 6
"""Letters of a secret; shorter ones are stand-ins, and words of any text."""


NO_KEY = "none"
"""A server of one's own may want no key, but the SDKs want one."""


class NoAnswerError(MmsieveError):
    """A request got no answer."""

    def __init__(
        self, trouble: Trouble, message: str, status: int | None = None, wait: float | None = None
    ) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.status = status
        """Of HTTP; None where there was no response."""
        self.wait = wait
        """Seconds after which the server asks to be asked again (Retry-After)."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How a model is reached."""

    provider: str
    model: str
    key: str = field(repr=False)
    base_url: str | None
    max_retries: int
    """Times that a request which failed is sent again; waiting for a server doesn't count."""
    timeout: float
    """Seconds without a byte of an answer."""
    max_tokens: int = 0
    """Of a teacher's answer, thinking included."""
    patience: timedelta = PATIENCE
    """How long is waited for a server that is down."""

    @property
    def place(self) -> str:
        """Where the model is, for messages."""
        return redact(self.base_url or self.provider)

    @cached_property
    def secrets(self) -> list[str]:
        """The key, and what lets somebody in of the address; the longest first."""
        address = urlsplit(self.base_url or "")
        login = unquote(address.netloc.rpartition("@")[0])
        header = b64encode(login.encode()).decode()
        public = redact(self.base_url or "")
        query = [value for _, value in parse_qsl(address.query) if value not in public]
        found = {self.key, login, login.partition(":")[2], header, *query}
        return sorted((each for each in found if len(each) >= _SECRET), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def scrub(self, text: str) -> str:
        """A text in one line, without secrets or anything like a key, and not too long."""
        return shorten(_KEY_LIKE.sub("***", self.hide(text)))

    def as_trouble(self, error: Exception) -> NoAnswerError:
        """An SDK's error as ours, without the key: `from None`, as its cause may hold it."""
        out_of_money = getattr(error, "code", None) == "insufficient_quota"
        status = 402 if out_of_money else getattr(error, "status_code", None)
        if status is not None:
            headers = getattr(getattr(error, "response", None), "headers", {})
            words, body = one_line(error), getattr(error, "body", None)
            if body and words.removeprefix("Error code: ").isdigit():
                words = f"{words}: {body}"  # the SDK shows only what OpenAI's servers would say
            return self.by_status(status, words, headers.get("Retry-After"))
        cause = error.__cause__
        why = one_line(error) if cause is None else f"{one_line(error)} {one_line(cause)}"
        is_down = type(cause).__name__ in _UNREACHABLE
        return NoAnswerError("down" if is_down else "failed", self.scrub(why))

    def by_status(self, status: int | None, words: str, retry_after: Any = None) -> NoAnswerError:
        """The error that an HTTP status means."""
        kinds: dict[Trouble, tuple[int, ...]]
        kinds = {"stop": _STOP, "refused": _REFUSED, "busy": _BUSY, "down": _DOWN}
        found = (kind for kind, statuses in kinds.items() if status in statuses)
        trouble: Trouble = next(found, "failed")
        wait = 0.0 if retry_after is None else seconds_to_wait(retry_after, 0)
        return NoAnswerError(trouble, self.scrub(words), status, min(wait, _LONGEST_WAIT) or None)


def shorten(text: str) -> str:
    """A text in one line that isn't too long."""
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."
