"""Final captions of an assessment table, put in the place of those that a sample has.

Only rewritten samples change: their `txt` is the final caption, and their `json` says what the
caption was and how it was judged. Everything else stays as it is, to the byte.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsieve import table
from mmsieve.errors import RequestError, Status
from mmsieve.listing import one_line
from mmsieve.read.captions import parse_object
from mmsieve.table import Header

_COLUMNS = ("key", "status", "caption", "final_caption", "rewritten", "overall_score")


@dataclass(frozen=True, slots=True)
class Change:
    """A caption's successor."""

    text: str
    original: str
    score: float

    @property
    def fields(self) -> dict[str, Any]:
        """What the json member is to say of it."""
        return {"original_caption": self.original, "overall_score": self.score}

    def told(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Metadata with these fields; of a caption that was rewritten before, the first stays."""
        kept = {k: metadata[k] for k in ("original_caption",) if k in metadata}
        return metadata | self.fields | kept

    def json_member(self, data: bytes | None) -> bytes:
        """The json member with these fields, the rest of it as it was; a new one where it is None.

        Raises SampleError where it isn't a JSON object.
        """
        if data is None:
            return json.dumps(self.fields).encode()
        metadata = parse_object(data)
        if metadata.keys() & self.fields.keys():
            return json.dumps(self.told(metadata)).encode()
        head = data.decode("utf-8-sig").rstrip().removesuffix("}").rstrip()
        comma = ", " if metadata else ""
        return (head + comma + json.dumps(self.fields)[1:]).encode()


class Captions:
    """The captions of a table that `enhance` wrote; as decisions, they keep every sample."""

    def __init__(self, path: Path) -> None:
        """Raises RequestError where there is no such table."""
        self.label = f"--captions {path}"
        self._files = table.files(path) if path.is_dir() else {}
        if not self._files:
            raise RequestError(f"{self.label}: no table there; make it with enhance")
        for file in self._files.values():
            self._check(file)

    @property
    def shards(self) -> Sequence[str]:
        """The names of all shards, sorted."""
        return sorted(self._files)

    def source_size(self, shard: str) -> int | None:
        """Bytes of the shard's source when its captions were judged."""
        return self._header(self._files[shard]).size

    def kept(self, shard: str) -> list[str]:
        """The keys of a shard, each once, in the order of the rows."""
        rows = self._read(shard, ["key", "status"])
        same = pc.not_equal(rows["status"], Status.DUPLICATE_KEY.value)
        keys: list[str] = rows.filter(same)["key"].to_pylist()
        return keys

    def changes(self, shard: str) -> dict[str, Change]:
        """Key -> what becomes of its caption, for those that change."""
        if shard not in self._files:
            raise RequestError(f"{self.label}: none for the shard {shard}: enhance all SOURCEs")
        rows = self._read(shard, [*_COLUMNS])
        rows = rows.filter(pc.fill_null(rows["rewritten"], False))
        return {
            row["key"]: Change(row["final_caption"], row["caption"], row["overall_score"])
            for row in rows.to_pylist()
        }

    def _read(self, shard: str, columns: list[str]) -> pa.Table:
        with pq.ParquetFile(self._files[shard]) as file:
            return file.read(columns)

    def _check(self, file: Path) -> None:
        if self._header(file).kind != "assessment":
            raise RequestError(f"{self.label}: {file} is no table of enhance")
        try:
            names = pq.read_schema(file).names
        except (pa.ArrowException, OSError) as error:
            raise RequestError(f"{file}: can't be read ({one_line(error)})") from error
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise RequestError(f"{file}: not of enhance: there is no column {missing[0]}")

    def _header(self, file: Path) -> Header:
        header = table.read_header(file)
        if header is None:
            raise RequestError(f"{self.label}: {file} is no table of enhance")
        return header
