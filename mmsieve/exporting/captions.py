"""Final captions: what `enhance` made of captions, and where they go.

A rewritten caption takes the place of its original, which is kept beside it with its score: in a
tar's `json` member, in an item's fields, in columns of a Parquet file.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mmsieve import tables
from mmsieve.decisions import Kept
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.identity import TableSource
from mmsieve.read.json_items import parse_object
from mmsieve.tables import Header

_COLUMNS = {
    "key": pl.String,
    "status": pl.String,
    "caption": pl.String,
    "final_caption": pl.String,
    "rewritten": pl.Boolean,
    "overall_score": pl.Float32,
    "place": pl.Int64,
}


ORIGINAL, SCORE = "original_caption", "overall_score"
"""What a rewritten caption has beside it."""


@dataclass(frozen=True, slots=True)
class CaptionChange:
    """A caption's successor."""

    key: str
    text: str
    original: str
    score: float

    @property
    def identity(self) -> str:
        """What digests are made of, in the words that journals have had from the first."""
        return f"Change(text={self.text!r}, original={self.original!r}, score={self.score!r})"

    @property
    def fields(self) -> dict[str, Any]:
        """What the json member is to say of it."""
        return {ORIGINAL: self.original, SCORE: self.score}

    def annotate(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Metadata with these fields; of a caption that was rewritten before, the first stays."""
        kept = {k: metadata[k] for k in (ORIGINAL,) if k in metadata}
        return metadata | self.fields | kept

    def json_member(self, data: bytes | None) -> bytes:
        """The json member, or a new one, with these fields; one that is no object as it is."""
        if data is None:
            return json.dumps(self.fields).encode()
        try:
            metadata = parse_object(data)
        except SampleError:
            return data
        if metadata.keys() & self.fields.keys():
            return json.dumps(self.annotate(metadata)).encode()
        head = data.decode("utf-8-sig").rstrip().removesuffix("}").rstrip()
        comma = ", " if metadata else ""
        return (head + comma + json.dumps(self.fields)[1:]).encode()


@dataclass(frozen=True)
class CaptionEdit:
    """Puts final captions into the items of a file, or the rows of a table."""

    changes: Mapping[int, CaptionChange]
    """Place -> what becomes of the caption."""
    put: Callable[[Mapping[str, Any], str], dict[str, Any]]
    """Of an item's fields the one that holds the caption, with another in its place."""

    def fields(self, place: int, item: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that change, or come to the item at a place; raises SampleError."""
        change = self.changes.get(place)
        if change is None:
            return {}
        first = item.get(ORIGINAL)
        return {**self.put(item, change.text), **change.fields, ORIGINAL: first or change.original}


class FinalCaptions:
    """The captions of a table that `enhance` wrote; as decisions, they keep every sample."""

    def __init__(self, path: Path) -> None:
        """Raises RequestError where there is no such table."""
        self.label = f"--captions {path}"
        self._files = tables.table_files(path) if path.is_dir() else {}
        if not self._files:
            raise RequestError(f"{self.label}: no table there; make it with enhance")
        self._headers = {shard: self._check(file) for shard, file in self._files.items()}
        self.limit = next((h.limit for h in self._headers.values() if h.limit), None)
        """Set where they are of a trial run."""
        self.fingerprint = next(iter(self._headers.values())).fingerprint
        """What made them."""

    @property
    def shards(self) -> Sequence[str]:
        """The names of all shards, sorted."""
        return sorted(self._files)

    def source(self, shard: str) -> TableSource:
        """What is known of the shard's source."""
        return self._headers[shard].of_source

    def kept(self, shard: str) -> list[Kept]:
        """The samples of a shard, each once, in the order of the rows."""
        rows = self._read(shard, ("key", "status", "place"))
        rows = rows.filter(pl.col("status") != Status.DUPLICATE_KEY.value)
        return list(map(Kept, rows["place"].to_list(), rows["key"].to_list()))

    def changes(self, shard: str) -> dict[int, CaptionChange]:
        """Place -> what becomes of the sample's caption, for those that change."""
        if shard not in self._files:
            raise RequestError(f"{self.label}: none for the shard {shard}: enhance all SOURCEs")
        rows = self._read(shard, _COLUMNS).filter(pl.col("rewritten").fill_null(False))
        if lost := [column.name for column in rows if column.has_nulls()]:
            fix = "make it again with enhance"
            raise RequestError(f"{self._files[shard]}: rewrites without {lost[0]}: {fix}")
        made = ("final_caption", "caption", "overall_score")
        return {
            row["place"]: CaptionChange(row["key"], *(row[name] for name in made))
            for row in rows.iter_rows(named=True)
        }

    def _read(self, shard: str, columns: Iterable[str]) -> pl.DataFrame:
        """The rows with their places: of a table of before, which has a row for each sample."""
        types = {name: _COLUMNS[name] for name in columns}
        rows = pl.concat(tables.read_frames([self._files[shard]], types))
        if not rows["place"].is_null().all():
            return rows
        start = self._headers[shard].start
        return rows.with_columns(place=pl.int_range(start, start + rows.height))

    def _check(self, file: Path) -> Header:
        """Raise RequestError unless a file is of enhance; returns its header."""
        header = tables.read_header(file)
        if header is None or header.kind != "assessment":
            raise RequestError(f"{self.label}: {file} is no table of enhance")
        with tables.open_file(file) as parquet:
            names = parquet.schema_arrow.names
        missing = [name for name in _COLUMNS if name not in (*names, tables.PLACE)]
        if missing:
            raise RequestError(f"{file}: not of enhance: there is no column {missing[0]}")
        return header
