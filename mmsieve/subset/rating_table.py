"""A rating table -> Pool: Parquet files of `rate`, or anyone's with the same columns."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa

from mmsieve.capabilities import CAPABILITIES
from mmsieve.cut.identity import Identity
from mmsieve.cut.inputs import Table, column_names, notes_of_unfinished
from mmsieve.errors import RequestError, Status
from mmsieve.subset.groups import Grouping
from mmsieve.subset.numbering import Texts, narrowed, rank
from mmsieve.subset.options import SelectOptions
from mmsieve.subset.pool import Pool
from mmsieve.subset.rated import Origins
from mmsieve.subset.styles import label_cleaner

STYLES, SOURCE, TOKENS, STATUS = "styles", "image_source", "num_tokens", "status"


class RatingTable:
    """The rows of a rating table; the request is checked when this is made, rows are read later."""

    def __init__(self, table: Table, options: SelectOptions) -> None:
        self.name = table.name
        self.path = table.path
        self.files = table.files
        self.notes = notes_of_unfinished([table])
        self._table = table
        self._options = options
        self._identity = Identity(table, needs_uid=False)
        self.capabilities = options.names() or [n for n in CAPABILITIES if n in table.types]
        if not self.capabilities:
            raise RequestError(
                f"{table.path}: has no column of a capability ({', '.join(CAPABILITIES)}); name "
                f"yours with --capabilities; {column_names([table])}"
            )
        for name in self.capabilities:
            if not _is_number(self._type(name)):
                raise RequestError(
                    f"--capabilities {name}: holds {table.types[name]}, ratings are integers or "
                    "floating-point numbers"
                )
        styles = self._type(STYLES)
        if not (pa.types.is_list(styles) or pa.types.is_large_list(styles)) or not _is_text(
            styles.value_type
        ):
            raise RequestError(f"{table.path}: column {STYLES} holds {styles}, not lists of text")
        if not _is_text(self._type(SOURCE)):
            raise RequestError(f"{table.path}: column {SOURCE} holds {table.types[SOURCE]}")
        if options.budget_tokens is not None and not pa.types.is_integer(self._tokens_type()):
            raise RequestError(f"{table.path}: column {TOKENS} must hold integers")

    @cached_property
    def pool(self) -> Pool:
        """The columns as numbers, in one pass over the table."""
        grouping = Grouping(Texts(label_cleaner(self._options.styles)), Texts())
        statuses = Texts()
        statuses.one(Status.OK)
        parts: dict[str, list[pl.Series]] = {name: [] for name in self.capabilities}
        status_parts, source_parts, token_parts = [], [], []
        for _, frame in self._table.batches(self._columns):
            status_parts.append(self._statuses(frame, statuses))
            source_parts.append(grouping.sources.number(frame[SOURCE]))
            lists = frame[STYLES].to_arrow(compat_level=pl.CompatLevel.oldest())
            counts = pl.Series(lists.value_lengths()).fill_null(0).to_numpy()
            flat = pl.Series(lists.flatten(), dtype=pl.String)
            numbers = grouping.styles.number(flat)
            numbers[flat.is_null().to_numpy()] = -1
            grouping.add(counts.astype(np.int64), numbers, source_parts[-1])
            for name, part in parts.items():
                part.append(frame[name])
            if self._options.budget_tokens is not None:
                token_parts.append(frame[TOKENS].cast(pl.Int64).fill_null(0).to_numpy())
        return Pool(
            ratings={name: rank(parts.pop(name)) for name in self.capabilities},
            groups=grouping.finish(),
            sources=narrowed(np.concatenate(source_parts), len(grouping.sources.names)),
            source_names=grouping.sources.names,
            statuses=narrowed(np.concatenate(status_parts), len(statuses.names)),
            status_names=statuses.names,
            tokens=np.concatenate(token_parts) if token_parts else None,
        )

    def named(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """`key` and `shard` of all rows in order, some at a time, and from which files."""
        for origins, frame in self._table.batches(self._identity.columns):
            yield origins, self._identity.of_all(origins, frame)

    @property
    def _columns(self) -> list[str]:
        """What is read of the table."""
        columns = [*self.capabilities, STYLES, SOURCE]
        columns += [STATUS] if STATUS in self._table.types else []
        columns += [TOKENS] if self._options.budget_tokens is not None else []
        return list(dict.fromkeys(columns))

    def _statuses(self, frame: pl.DataFrame, statuses: Texts) -> np.ndarray:
        if STATUS not in self._table.types:
            return np.zeros(frame.height, np.int32)
        return statuses.number(frame[STATUS].cast(pl.String).fill_null(Status.OK.value))

    def _type(self, column: str) -> pa.DataType:
        """The type of a column; raises RequestError where the table lacks it."""
        mixed = self._table.mixed.get(column)
        if mixed is not None:
            raise RequestError(f"column {column} of {self.name} can't be used: {mixed}")
        if column not in self._table.types:
            raise RequestError(
                f"{self.path}: has no column {column}; {column_names([self._table])}"
            )
        return self._table.types[column]

    def _tokens_type(self) -> pa.DataType:
        if TOKENS not in self._table.types:
            raise RequestError(
                f"--budget-tokens: {self.path} has no column {TOKENS} (int: text and image tokens "
                "of each sample); add it to the table, or say --budget"
            )
        return self._type(TOKENS)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: pa.DataType) -> bool:
    while pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_text(kind) for is_text in (*texts, pa.types.is_null))
