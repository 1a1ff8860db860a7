"""Answers of shards under way, kept beside their tables until those are written.

A line of a shard's file is an answer under the digest of its request. So a run that goes on after a
kill asks again only what was under way, and a run that is done leaves no such files.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mmsieve.outputs import read_lines
from mmsieve.stores.folders import cache_folder
from mmsieve.stores.paths import is_stored

_FOLDER = ".answers"
_SYNC_AFTER = 1.0
"""Seconds after which what a power cut would take is put on disk; a kill takes nothing."""


class _AnswerLine(TypedDict):
    key: str
    answer: Any


_LINE = TypeAdapter(_AnswerLine)


class KeptAnswers:
    """The answers that are kept for one shard after the other of a table."""

    def __init__(self, out: Path, request: Mapping[str, str]) -> None:
        """`request` is whatever changes an answer beyond what is sent: that of the table."""
        if is_stored(out):  # which has no files that grow: another machine asks again
            self._folder = cache_folder("answers", str(out))
        else:
            self._folder = out / _FOLDER
        self._seed = hashlib.blake2b(json.dumps(request, sort_keys=True).encode()).digest()
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._synced = 0.0
        self._known: dict[str, Any] = {}

    @property
    def is_there(self) -> bool:
        """Whether anything is kept, of whatever shard."""
        return self._folder.is_dir()

    def open(self, shard: str) -> None:
        """Go on with what is kept for a shard."""
        self.close()
        self._path = self._folder / f"{shard}.jsonl"
        self._known = {line["key"]: line["answer"] for line in read_lines(self._path, _parse)}

    def key(self, body: Mapping[str, Any]) -> str:
        """What a request is known by."""
        data = json.dumps(body, sort_keys=True).encode()
        return hashlib.blake2b(data, key=self._seed, digest_size=16).hexdigest()

    def find(self, key: str) -> Any:
        """The answer to a request; None where there is none."""
        return self._known.get(key)

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer: when this returns, it survives a kill."""
        self._known[key] = answer
        if self._path is None:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        # The break comes first: it ends a line that a killed run left half written.
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False)
        self._file.write(f"\n{line}\n".encode())
        self._file.flush()
        if time.monotonic() >= self._synced + _SYNC_AFTER:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Let go of the shard at hand; what is kept of it stays."""
        if self._file is not None:
            self._file.close()
        self._file, self._path, self._known = None, None, {}

    def remove(self, shard: str) -> None:
        """Remove what is kept of a shard whose table is whole, or is to be made anew."""
        path = self._folder / f"{shard}.jsonl"
        path.unlink(missing_ok=True)
        with suppress(OSError):  # others are still there
            for folder in path.parents:
                if folder == self._folder.parent:
                    break
                folder.rmdir()


def _parse(line: bytes) -> _AnswerLine:
    return _LINE.validate_json(line)
