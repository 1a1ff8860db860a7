"""What may be shown: texts without the secrets of addresses, and without what drives a terminal.

An error's message, an output's record and whatever else is stored or compared goes through
`redact`; what is printed, through `write` as well.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO
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


def write(text: str, stream: TextIO, event: str = "message", **facts: Any) -> None:
    """Print lines of text, redacted and plain, in whatever encoding the stream has.

    Where stderr is for machines it is one object: `time`, `event`, `text`, and the facts.
    """
    shown = "\n".join(map(plain, redact(text).split("\n")))
    if _log_json and stream is sys.stderr:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        shown = json.dumps({"time": now, "event": event, "text": shown, **facts}, default=str)
    encoding = stream.encoding or "utf-8"
    stream.write(shown.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
