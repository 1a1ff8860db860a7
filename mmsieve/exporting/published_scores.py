"""Scores as the published scorers leave them: a Parquet file beside each tar.

Victorwz/UniFilter (data_scoring/*.py) writes `NNNNNNNN_quality_score.parquet` into the folder of
the tars: of captions every field of a sample's json and its score, of documents key and score; with
two or more labels `quality_class` too. Where a sample has no score there is no row. Here they are
made of the tables, once those are whole.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmsieve import tables
from mmsieve.engine.annotator import Annotator
from mmsieve.engine.job import ShardJob
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.methods.unifilter.annotator import OneSided, UniFilter
from mmsieve.read import parse_record
from mmsieve.read.shards import open_shard
from mmsieve.sources import Shard
from mmsieve.tables import SCORE

_FLAG = "--also-published-layout"
_CLASS = "quality_class"


class PublishedScores:
    """Writes them for the shards of a run of `score`."""

    def __init__(self, overwrite: bool) -> None:
        """`overwrite`: scores of another request, or of the published scorer, may be replaced."""
        self._overwrite = overwrite

    def check(self, job: ShardJob, shards: Sequence[Shard]) -> None:
        """Raise RequestError where files can't be written, or hold another request's scores."""
        if SCORE not in job.schema.names:
            raise RequestError(f"{_FLAG}: this model gives no column {SCORE}")
        names: dict[Path, Shard] = {}
        for shard in shards:
            if shard.suffix != ".tar" or "://" in shard.url:
                raise RequestError(f"{_FLAG}: {shard.url} is no tar on a local disk")
            if shard.limit is not None:
                raise RequestError(
                    f"{_FLAG}: leave --limit out: a trial's scores stay in the table"
                )
            path = published_path(shard)
            if other := names.get(path):
                raise RequestError(f"{_FLAG}: {other.url} and {shard.url} are both {path.name}")
            names[path] = shard
            if path.exists() and not self._overwrite:
                self._check_file(job, path)

    def _check_file(self, job: ShardJob, path: Path) -> None:
        made = tables.existing_header(path)  # refuses what mmsieve did not write
        if made is not None and made.fingerprint != job.fingerprint:
            raise RequestError(
                f"{path}: holds scores of another model or other options: move it away, or say "
                "--overwrite"
            )

    def write(self, job: ShardJob, shards: Sequence[Shard]) -> list[str]:
        """Write what is not there yet of the shards that are done; notes for the user."""
        written = 0
        for shard in shards:
            table, path = job.path(shard), published_path(shard)
            header = tables.existing_header(table)
            if header is None or not header.complete:
                continue
            if not self._overwrite and tables.existing_header(path) == header:
                continue
            scores = _columns(list(_rows(job, shard, table)))
            tables.write_file(path, scores, header)
            written += 1
        return [f"{written} *_{SCORE}.parquet written beside the tars"]


def published_path(shard: Shard) -> Path:
    """Where the published scorer puts a tar's scores: by the number in its name, of 8 digits."""
    tar = Path(shard.url)
    number = re.fullmatch(r"(?:shard_)?(\d{1,8})", shard.stem)
    name = f"{int(number[1]):08d}" if number else shard.stem
    return tar.with_name(f"{name}_{SCORE}.parquet")


def _rows(job: ShardJob, shard: Shard, table: Path) -> Iterator[dict[str, Any]]:
    """A row of each sample that has a score, in the order of the tar."""
    columns = ["key", "status", SCORE, "quality_level"]
    has_classes = _labels(job.annotator) > 1
    (frame,) = tables.read_frames([table], columns if has_classes else columns[:3], 1 << 40)
    with open_shard(shard, job.read) as reader:
        is_document = reader.layout != "captions"
        for record, row in zip(reader.records, frame.iter_rows(named=True), strict=True):
            if row["status"] != Status.OK:
                continue
            found = {"key": row["key"]} if is_document else _metadata(reader.parse, record)
            found[SCORE] = row[SCORE]
            if has_classes:
                found[_CLASS] = row["quality_level"]
            yield found


def _labels(annotator: Annotator) -> int:
    whole = annotator.classifier if isinstance(annotator, OneSided) else annotator
    return whole.checkpoint.num_labels if isinstance(whole, UniFilter) else 1


def _metadata(parse: Any, record: Any) -> dict[str, Any]:
    try:
        return dict(parse_record(parse, record).metadata)
    except SampleError:
        return {}


def _columns(rows: list[dict[str, Any]]) -> pa.Table:
    """The columns of all fields; of one whose values are of several types the JSON of each."""
    names = dict.fromkeys(name for row in rows for name in row)
    names |= {SCORE: None}
    made = {name: _column([row.get(name) for row in rows]) for name in names}
    made[SCORE] = pa.array([row[SCORE] for row in rows], pa.float32())
    if _CLASS in made:
        made[_CLASS] = made[_CLASS].cast(pa.int64())
    return pa.table(made)


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
        return pa.array(texts, pa.string())
