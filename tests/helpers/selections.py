"""What the tests of select share: pools on disk, and the chosen keys."""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.identity import identify
from mmsieve.labels import CAPABILITIES
from mmsieve.selection.options import SelectOptions
from mmsieve.sources import split_name
from mmsieve.verbs.select import SelectReport, select
from tests.helpers.tables import write_table


def choose(table: Path, out: Path, **options: Any) -> SelectReport:
    """Run the verb; flags of its own are told from options of the selection."""
    own = ("data", "subset", "overwrite", "dry_run")
    flags = {name: options.pop(name) for name in own if name in options}
    return select(table, out=out, choice=SelectOptions(**options), quiet=True, **flags)


def ratings_of(rows: Sequence[dict[str, Any]], **types: pa.DataType) -> dict[str, Any]:
    """Columns of a rating table from rows; `types` of the rating columns, int8 by default."""
    columns: dict[str, Any] = {"key": [str(row["key"]) for row in rows]}
    columns["shard"] = ["a"] * len(rows)
    columns["status"] = [row.get("status", "ok") for row in rows]
    for name in ("styles", "image_source"):
        kind = pa.list_(pa.string()) if name == "styles" else pa.string()
        columns[name] = pa.array([row[name] for row in rows], kind)
    for name, kind in types.items():
        columns[name] = pa.array([row[name] for row in rows], kind)
    return columns


def write_ratings(
    folder: Path, columns: dict[str, Any], cuts: Sequence[int] = (), data: Path | None = None
) -> Path:
    """A rating table, cut before the rows that are named; of the items of `data`, if it is given.

    Its rows are then those of the items in their order, unless `place` says otherwise.
    """
    count = len(columns["key"])
    source = None if data is None else asdict(identify(str(data)))
    if data is not None:
        columns = {"place": list(range(count))} | columns
    for number, (start, stop) in enumerate(pairwise([0, *cuts, count])):
        shard = f"s{number:03d}" if data is None else f"{split_name(str(data))[0]}-{number:06d}"
        part = {name: values[start:stop] for name, values in columns.items()}
        part["shard"] = [shard] * (stop - start)
        write_table(folder, {shard: part}, kind="ratings", source=source, start=start)
    return folder


def write_results(folder: Path, items: list[dict[str, Any]], files: dict[str, Any]) -> Path:
    """A question file and a folder of results: file -> (idx, response) pairs."""
    results = folder / "res"
    results.mkdir(parents=True)
    (folder / "qas.json").write_text(json.dumps(items))
    for name, lines in files.items():
        text = "".join(json.dumps({"idx": i, "pred_response": r}) + "\n" for i, r in lines)
        (results / f"{name}.jsonl").write_text(text)
    return results


def unpack(pool: Path, folder: Path) -> Path:
    """A recorded pool as a folder of results beside its question file, or as a rating table."""
    folder.mkdir(parents=True)
    if pool.name.endswith(".tar.gz"):
        with tarfile.open(pool) as archive:
            archive.extractall(folder, filter="data")
        return folder / "res"
    table = pq.read_table(pool)
    names = [name for name in table.column_names if name in CAPABILITIES]
    if table.schema.metadata[b"scores"] != b"rank":
        keys, sources = table["idx"].to_pylist(), table["image_source"].to_pylist()
        items = [
            {"id": f"s{key}", "idx": key, "image_source": source, "conversations": []}
            for key, source in zip(keys, sources, strict=True)
        ]
        files = {
            name: list(zip(keys, map(str, table[name].to_pylist()), strict=True))
            for name in (*names, "style")
        }
        return write_results(folder, items, files)
    columns = {
        "key": [str(key) for key in table["idx"].to_pylist()],
        "status": ["ok"] * table.num_rows,
        "styles": [[s.strip() for s in text.split(",")] for text in table["style"].to_pylist()],
        "image_source": table["image_source"].to_pylist(),
    }
    for name in names:
        scale = 5.0 / (table.num_rows + 1)
        texts = [f"{(rank + 1) * scale:.9f}" for rank in table[name].to_pylist()]
        columns[name] = [float(text) for text in texts]
    return write_ratings(folder / "table", columns)
