"""What the tests of filter share."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.verbs.filter import CutOptions, FilterReport, filter
from tests.helpers.tables import rows_of, write_table

NAN = float("nan")


def cut(*tables: Path | str, out: Path, **options: Any) -> FilterReport:
    flags = {n: options.pop(n) for n in ("format", "overwrite", "dry_run") if n in options}
    return filter(*map(str, tables), out=out, cut=CutOptions(**options), quiet=True, **flags)


def two_shards(folder: Path) -> Path:
    return write_table(
        folder, {"a": rows_of("a", [0.1, 2.0, None, 1.5]), "b/c": rows_of("b/c", [2.5, NAN, 0.5])}
    )


def others_file(path: Path, uids: list[str], scores: list[float]) -> Path:
    pq.write_table(pa.table({"uid": uids, "clip_l14": pa.array(scores, pa.float64())}), path)
    return path
