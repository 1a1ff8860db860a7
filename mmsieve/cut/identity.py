"""What a decision calls a row: its key, its shard, its uid."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from mmsieve.cut.inputs import Table, TableFile, column_names
from mmsieve.errors import RequestError


class Identity:
    """The columns of a table that say which sample a row is."""

    def __init__(self, table: Table, needs_uid: bool) -> None:
        """Raise RequestError where the table lacks them; a uid serves as key where that is all."""
        shard = table.types.get("shard")
        has_shard = shard is not None and (_is_text(shard) or table.is_ours)
        self._shard = "shard" if has_shard else None
        self._uid = "uid" if needs_uid else None
        self._key = "key" if "key" in table.types or not needs_uid else "uid"
        self.columns = list(dict.fromkeys(c for c in (self._key, self._shard, self._uid) if c))
        for column in self.columns:
            if column not in table.types or column in table.mixed:
                raise RequestError(
                    f"{table.name} has no usable column {column} to name samples by: put the "
                    f"table that has it first; {column_names([table])}"
                )

    def of(self, file: TableFile, frame: pl.DataFrame) -> pl.DataFrame:
        """`key`, `shard` and, where asked for, `uid` of a file's rows, as text."""
        return self.of_all([(file, frame.height)], frame)

    def of_all(self, origins: Sequence[tuple[TableFile, int]], frame: pl.DataFrame) -> pl.DataFrame:
        """The same for the rows of several files: so many of each, one after the other."""
        key = frame[self._key].cast(pl.String)
        if self._key == "uid":
            key = key.fill_null("")  # checked where the row is kept
        if key.has_nulls():
            ends = np.cumsum([rows for _, rows in origins])
            first = int(key.is_null().arg_true()[0])
            file = origins[int(np.searchsorted(ends, first, side="right"))][0]
            raise RequestError(f"{file.path}: a row has no {self._key}, so it can't be named")
        names = pl.Series([file.shard for file, _ in origins], dtype=pl.String)
        shard = names.gather(np.repeat(np.arange(len(origins)), [rows for _, rows in origins]))
        if self._shard is not None:
            shard = frame[self._shard].cast(pl.String).fill_null(shard)
        columns = {"key": key, "shard": shard}
        if self._uid is not None:
            columns["uid"] = frame[self._uid].cast(pl.String)
        return pl.DataFrame(columns)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
