"""Filesystems of URLs, and asking them: again where that may help, errors as OSErrors."""

import errno
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs

from mmsieve import http
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.sanitize import redact

# Filesystems

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""Protocol -> the extra of mmsieve that installs its filesystem."""
_TRIES = 8
"""How often botocore sends a request, with pauses that double and vary, up to 20 s each."""


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL and the path there; RequestError names what must be installed."""
    protocol = url.partition("://")[0]
    try:
        found: tuple[fsspec.AbstractFileSystem, str] = url_to_fs(url, **_options(protocol))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        fix = f"pip install 'mmsieve[{extra}]'" if extra else one_line(error)
        raise RequestError(f"{url}: {protocol}:// needs a package not installed: {fix}") from error
    except ValueError as error:
        fix = "a SOURCE is a path or a URL such as s3://, gs://, hf://, https://"
        raise RequestError(f"{url}: {one_line(error)}; {fix}") from error
    except Exception as error:  # some backends connect at once, and have errors of their own
        raise RequestError(f"{url}: can't be reached: {one_line(error)}") from error
    return found


def _options(protocol: str) -> dict[str, Any]:
    """What a filesystem is opened with; what users configured by fsspec's or AWS's means stays."""
    if protocol in ("http", "https"):
        return {"get_client": http.open_session}
    if protocol not in ("s3", "s3a"):
        return {}
    own = fsspec.config.conf.get("s3", {})
    options: dict[str, Any] = {} if "use_listings_cache" in own else {"use_listings_cache": False}
    config = dict(own.get("config_kwargs", {}))
    if not {"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"} & os.environ.keys():
        config.setdefault("retries", {"mode": "standard", "max_attempts": _TRIES})
    return options | {"config_kwargs": config}


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether the filesystem's paths are paths of this machine."""
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def one_line(error: BaseException) -> str:
    """What an error says, in one line, redacted; of one that can't say anything, its name."""
    error = http.cause_of(error)
    try:
        said = http.answer_in(error) or redact(str(error))
        return " ".join(said.split()) or type(error).__name__
    except Exception:  # noqa: BLE001 - somebody else's `__str__` may fail in any way
        return type(error).__name__


# Asking a store, again where that may help

R = TypeVar("R")
_AGAIN = 4
FIRST_PAUSE = 0.5
"""Seconds before a request is sent again here, twice as many before each other time."""
_FINAL = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)

_ANOTHER_TIME = (408, 425, 429)
"""Answers of web servers that say nothing of what is asked for."""


def ask(url: str, call: Callable[[], R]) -> R:
    """What a call to a store returns; OSError where it can't be had, also when asked again."""
    for attempt in range(_AGAIN):
        try:
            return call()
        except Exception as error:  # every fsspec backend has errors of its own
            if not _may_pass(error) or attempt == _AGAIN - 1:
                raise _as_os_error(url, error) from error
        pause = FIRST_PAUSE * 2**attempt
        time.sleep(random.uniform(pause, 2 * pause))  # noqa: S311 - or all come back at once
    raise AssertionError


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help: not where a store has answered, or nobody is let in."""
    if isinstance(error, MmsieveError | ValueError | TypeError | NotImplementedError):
        return False
    status = getattr(error, "status", None)  # of aiohttp's errors
    if isinstance(status, int) and 400 <= status < 500 and status not in _ANOTHER_TIME:
        return False
    is_answer = isinstance(error, OSError) and error.errno in _FINAL
    kinds = FileNotFoundError | PermissionError | FileExistsError
    return not (is_answer or isinstance(error, kinds) or "Credential" in type(error).__name__)


def _as_os_error(url: str, error: Exception) -> Exception:
    if isinstance(error, MmsieveError | FileNotFoundError):
        return error
    fix = "; give credentials by the store's usual means" if "redential" in repr(error) else ""
    usual = errno.EIO if _may_pass(error) else errno.EINVAL  # no answer, or one that stays
    number = error.errno if isinstance(error, OSError) and error.errno else usual
    return OSError(number, f"{redact(url)}: {one_line(error)}{fix}")
