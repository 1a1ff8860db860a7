"""What may be shown: texts without the secrets of addresses, and without what drives a terminal.

An error's message, an output's record and whatever else is stored or compared goes through
`redact`; what is printed, through `write` as well. What is told machines is a record of `tell`.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeAlias
from urllib.parse import unquote

# One slash is what is left of two in a path.
_LOGIN = re.compile(r"(?<![\w+.-])([a-z][\w+.-]+)(://?)([^\s/?#]*)@", re.IGNORECASE)
_NO_LOGINS = ("abfs", "abfss", "wasb", "wasbs", "github")
"""Protocols that name a container or a repository in the place of a login."""
_PARAMETERS = re.compile(r"(\w://?[^\s?#'\"<>]*)([?#](?:[^\s'\"<>]*[^\s'\"<>:,.)\]])?)")
_SECRET = re.compile(
    r"sig|token|key|secret|pass|pwd|auth|cred|expir|policy|session|jwt|hmac|accessid|^code$|^md5$"
    r"|^(x-|hdn|q-)|^(se|sp|sv|sr|st|ss|srt|spr|sip|si|sdd|sk[a-z]{1,3}|s[acdu]oid|scid)$",
    re.IGNORECASE,
)
"""Names of parameters that sign an address or let somebody in: those of clouds, and the usual."""
_OPAQUE = re.compile(r"(?=.*\d)(?=.*[a-z])[\w%+/=~-]{24,}", re.IGNORECASE)
_HEADER = re.compile(
    r"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic)\s+)?)[^\s\"',]+", re.I
)


def redact(text: str) -> str:
    """A text whose addresses have no logins, signatures or keys: to be shown, stored, compared.

    The same address with a fresh signature is the same text. A value of another parameter that
    looks like a secret is a short digest of it, so that different ones stay different.
    """
    text = _HEADER.sub(r"\1***", text)
    if ":/" not in text:
        return text
    text = _LOGIN.sub(_without_login, text)
    return _PARAMETERS.sub(_without_secrets, text)


def _without_login(found: re.Match[str]) -> str:
    protocol, slashes, login = found.groups()
    if protocol.lower() in _NO_LOGINS and (protocol.lower() == "github" or ":" not in login):
        return found[0]
    return protocol + slashes


def _without_secrets(found: re.Match[str]) -> str:
    kept = ""
    for mark, part in re.findall(r"([?&;#])([^?&;#]*)", found[2]):
        name, equals, value = part.partition("=")
        if equals and _SECRET.search(unquote(name)):
            continue
        hidden = value if equals else name
        if mark != "#" and _OPAQUE.fullmatch(hidden):
            digest = hashlib.sha256(hidden.encode()).hexdigest()[:8]
            part = part.removesuffix(hidden) + f"~{digest}"
        kept += (mark if kept or mark == "#" else "?") + part
    return found[1] + kept


_DRIVING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, what turns the direction of text around, halves of characters."""


def plain(text: str) -> str:
    """A text as one line that does nothing to a terminal: such characters are written as escapes.

    What is plain already stays as it is.
    """
    return _DRIVING.sub(lambda found: repr(found[0])[1:-1], text)


_log_json = False


@contextmanager
def log_as_json(wanted: bool) -> Iterator[None]:
    """Let what the block writes to stderr be JSON, an object a line, where that is `wanted`."""
    global _log_json
    before, _log_json = _log_json, wanted
    try:
        yield
    finally:
        _log_json = before


def logs_json() -> bool:
    """Whether stderr has an object a line, for machines."""
    return _log_json


Record: TypeAlias = dict[str, Any]
"""Something that happened, for machines: `time`, `event`, `text`, and facts."""
_listeners: list[Callable[[Record], None]] = []


@contextmanager
def heard_by(listener: Callable[[Record], None]) -> Iterator[None]:
    """Have a listener called with all that is told in the block, by whatever thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(event: str, text: str = "", **facts: Any) -> Record:
    """Make a record of what happened, without secrets, for all who listen; returns it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record: Record = redact_all({"time": now, "event": event, "text": text, **facts})
    for listener in tuple(_listeners):
        listener(record)
    return record


def redact_all(value: Any) -> Any:
    """A value of JSON whose texts are redacted; paths are texts."""
    if isinstance(value, str | Path):
        return redact(str(value))
    if isinstance(value, dict):
        return {redact(str(name)): redact_all(one) for name, one in value.items()}
    return [redact_all(one) for one in value] if isinstance(value, list | tuple) else value


def write(text: str, stream: TextIO, event: str = "message", **facts: Any) -> None:
    """Print lines of text, redacted and plain, in whatever encoding the stream has.

    What goes to stderr is told, too; where stderr is for machines, the record is what is printed.
    """
    shown = "\n".join(map(plain, redact(text).split("\n")))
    if stream is sys.stderr and (_log_json or _listeners):
        record = tell(event, shown, **facts)
        shown = json.dumps(record, default=str) if _log_json else shown
    encoding = stream.encoding or "utf-8"
    stream.write(shown.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
