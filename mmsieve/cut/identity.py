"""What a decision calls a row: its key, its shard, its uid."""

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
        key = frame[self._key].cast(pl.String)
        if self._key == "uid":
            key = key.fill_null("")  # checked where the row is kept
        if key.has_nulls():
            raise RequestError(f"{file.path}: a row has no {self._key}, so it can't be named")
        shard = pl.Series([file.shard], dtype=pl.String).new_from_index(0, frame.height)
        if self._shard is not None:
            shard = frame[self._shard].cast(pl.String).fill_null(file.shard)
        columns = {"key": key, "shard": shard}
        if self._uid is not None:
            columns["uid"] = frame[self._uid].cast(pl.String)
        return pl.DataFrame(columns)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
