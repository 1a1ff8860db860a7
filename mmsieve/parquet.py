"""Parquet files, from anyone: what goes wrong with one is named, what it expands to is bounded.

A page may stand for a thousand times its size, and a dictionary for one large value in every row:
so sizes are looked at before anything is read. Shards and tables are opened through this module.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsieve.errors import MmsieveError, RequestError, ShardError, is_order_to_end
from mmsieve.sources import one_line

_BATCH_ROWS = 32
_BATCH_BYTES = 256 << 20
"""What a batch may take: a dictionary can stand for one large value in every row."""
_MOST_EXPANSION = 1000
"""Beyond this and _BATCH_BYTES a column is made to fill memory: images don't compress."""


@contextmanager
def naming_file(path: Path, fix: str) -> Iterator[None]:
    """Turn whatever a library raises over a file, a panic too, into a RequestError with the fix."""
    try:
        yield
    except RequestError:
        raise
    except MmsieveError as error:
        raise RequestError(f"{path}: {error}: {fix}") from error
    except BaseException as error:
        if is_order_to_end(error):
            raise
        raise RequestError(f"{path}: can't be read ({one_line(error)}): {fix}") from error


def rows_at_once(file: pq.ParquetFile, group: int, columns: Collection[str]) -> int:
    """How many rows of a group surely fit in memory; raises ShardError where not one may."""
    largest = 1
    for column in _columns(file, group, columns):
        _check_packed(group, column)
        largest = max(largest, column.total_uncompressed_size)
    return min(max(_BATCH_BYTES // largest, 1), _BATCH_ROWS)


def check_expansion(path: Path, file: pq.ParquetFile, group: int, columns: Collection[str]) -> None:
    """Raise ShardError where a group's columns take far more memory than room in the file."""
    rows = file.metadata.row_group(group).num_rows
    for column in _columns(file, group, columns):
        _check_packed(group, column)
        size, packed = column.total_uncompressed_size, column.total_compressed_size
        if column.physical_type != "BYTE_ARRAY" or not column.has_dictionary_page:
            continue
        most = max(_BATCH_BYTES, _MOST_EXPANSION * packed)
        if max(rows, column.num_values) * size <= most:
            continue
        if (found := _plain_size(path, group, column.path_in_schema, most)) > most:
            raise _packed(group, column, found)


def _columns(
    file: pq.ParquetFile, group: int, columns: Collection[str]
) -> Iterator[pq.ColumnChunkMetaData]:
    metadata = file.metadata.row_group(group)
    for number in range(metadata.num_columns):
        column = metadata.column(number)
        if column.path_in_schema.partition(".")[0] in columns:
            yield column


def _check_packed(group: int, column: pq.ColumnChunkMetaData) -> None:
    size = column.total_uncompressed_size
    if size > max(_BATCH_BYTES, _MOST_EXPANSION * column.total_compressed_size):
        raise _packed(group, column, size)


def _packed(group: int, column: pq.ColumnChunkMetaData, size: int) -> ShardError:
    name = column.path_in_schema.partition(".")[0]
    packed = f"{column.total_compressed_size} bytes of column {name} expand to {size}"
    return ShardError(f"row group {group}: {packed}")


def _plain_size(path: Path, group: int, name: str, most: int) -> int:
    """Bytes of a column's texts without their dictionary, or a number beyond `most`."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=[name]) as packed:
        for batch in packed.iter_batches(1 << 16, row_groups=[group], columns=[name]):
            array = batch.column(0)
            while not pa.types.is_dictionary(array.type):
                array = array.flatten()[0] if pa.types.is_struct(array.type) else array.flatten()
            lengths = pc.binary_length(array.dictionary).take(array.indices)
            total += pc.sum(lengths).as_py() or 0
            if total > most:
                break
    return total
