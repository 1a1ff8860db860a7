"""Makes the tables that filter and export read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from mmsieve import tables
from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.read import ReadOptions, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sources import find_files
from mmsieve.tables import Header

QUALITY = pa.schema([*tables.COMMON, pa.field("quality_score", pa.float32())])


def rows_of(shard: str, scores: Sequence[float | None], **columns: Sequence[Any]) -> dict[str, Any]:
    """Columns of a shard with these scores: keys k0, k1, ..., all rows ok."""
    count = len(scores)
    return {
        "key": [f"{shard}-k{row}" for row in range(count)],
        "shard": [shard] * count,
        "status": ["ok"] * count,
        "error": [None] * count,
        "uid": [f"{abs(hash_of(shard)) % 999 + 1:016x}{row:016x}" for row in range(count)],
        "quality_score": list(scores),
        **{name: list(values) for name, values in columns.items()},
    }


def hash_of(text: str) -> int:
    """A number of a text, the same in every process."""
    return sum(place * letter for place, letter in enumerate(text.encode(), 1))


def write_table(
    folder: Path, shards: dict[str, dict[str, Any]], kind: str = "quality", **header: Any
) -> Path:
    """A table of ours: shard -> its columns; `header` sets fields of all files' headers."""
    for shard, columns in shards.items():
        extra = [n for n in columns if n not in QUALITY.names]
        names = [n for n in QUALITY.names if n in columns]
        schema = pa.schema([QUALITY.field(n) for n in names])
        made = pa.table({n: columns[n] for n in names}, schema)
        for name in extra:
            made = made.append_column(name, pa.array(columns[name]))
        fields = {"kind": kind, "version": "0", "shard": shard, "size": 0, "rows": made.num_rows}
        tables.write_file(folder / f"{shard}.parquet", made, Header(**(fields | header)))
    return folder


def read_decisions(out: Path) -> pl.DataFrame:
    """All decisions of a folder or file, in the order of the shards."""
    paths = [out] if out.is_file() else list(tables.table_files(out).values())
    return pl.concat([pl.read_parquet(path) for path in paths])


def kept_keys(out: Path) -> set[str]:
    """The keys of the rows that are kept."""
    return set(read_decisions(out).filter("keep")["key"])


def score_sources(*sources: Path, out: Path, **options: Any) -> Path:
    """A quality table of real sources, as `score` writes it; the scores are made of the keys."""
    read = ReadOptions(**options)
    for shard in split_files(find_files([str(source) for source in sources]).files, read):
        rows: list[dict[str, Any]] = []
        problem = None
        try:
            with open_shard(shard, read) as reader:
                for record in reader.records:
                    row = dict.fromkeys(QUALITY.names) | {"key": record.key, "shard": shard.name}
                    try:
                        row["uid"] = parse_record(reader.parse, record).uid
                        row |= {"status": "ok", "quality_score": hash_of(record.key) % 101}
                    except SampleError as error:
                        row |= {"status": Status(error.status).value, "error": str(error)}
                    rows.append(row)
        except ShardError as error:
            problem = str(error)
        header = Header(
            kind="quality",
            version="0",
            shard=shard.name,
            size=shard.size,
            rows=len(rows),
            complete=problem is None,
            problem=problem,
        )
        made = pa.Table.from_pylist(rows, schema=QUALITY)
        tables.write_file(out / f"{shard.name}.parquet", made, header)
    return out
