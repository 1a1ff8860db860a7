"""Tables: a file is there whole or not at all, says what made it, and is ours or refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsieve import tables
from mmsieve.errors import RequestError
from mmsieve.tables import COMMON, Header

HEADER = Header(
    kind="quality",
    version="0.1.0",
    shard="a",
    size=10,
    rows=1,
    complete=False,
    problem="cut off inside 'é.jpg'",
    limit=3,
    fingerprint={"weights": "1f2e"},
    notes={"device": "cpu"},
)
ROW = {"key": "k", "shard": "a", "status": "ok"}


def write(path: Path, header: Header = HEADER) -> Path:
    tables.write_file(path, pa.Table.from_pylist([ROW], schema=COMMON), header)
    return path


def test_round_trip(tmp_path):
    path = write(tmp_path / "deep" / "a.parquet")
    assert tables.read_header(path) == tables.existing_header(path) == HEADER
    assert pq.read_table(path).to_pylist() == [{**ROW, "error": None, "uid": None, "place": None}]
    assert [p.name for p in path.parent.iterdir()] == ["a.parquet"]


def test_columns_keep_their_types(tmp_path):
    schema = pa.schema([*COMMON, pa.field("styles", pa.list_(pa.string()))])
    for rows in ([], [ROW]):
        tables.write_file(tmp_path / "a.parquet", pa.Table.from_pylist(rows, schema=schema), HEADER)
        assert pq.read_schema(tmp_path / "a.parquet").remove_metadata() == schema


def test_the_same_rows_are_the_same_bytes(tmp_path):
    first, second = write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet")
    assert first.read_bytes() == second.read_bytes()


def test_nothing_there_is_no_header(tmp_path):
    assert tables.existing_header(tmp_path / "a.parquet") is None
    assert tables.existing_header(tmp_path / "no" / "a.parquet") is None


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -4, -9])
def test_files_that_are_broken_are_refused(tmp_path, keep):
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    for read in (tables.read_header, tables.existing_header):
        with pytest.raises(RequestError, match="with --overwrite or another --out") as error:
            read(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("header", ['{"kind": "x"}', "[]", "null", "{", '{"new": 1}', "\udcff"])
def test_headers_of_another_version_are_refused(tmp_path, header):
    metadata = {b"mmsieve": header.encode(errors="surrogateescape")}
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match="not a table of this version"):
        tables.existing_header(tmp_path / "a.parquet")


def test_files_of_others_are_never_taken_for_ours(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    assert tables.read_header(tmp_path / "a.parquet") is None
    with pytest.raises(RequestError, match="not made by mmsieve"):
        tables.existing_header(tmp_path / "a.parquet")


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(RequestError):
        tables.existing_header(tmp_path / "a.parquet")


def test_files_in_the_order_of_their_names(tmp_path):
    for name in (
        "b/1.x.parquet",
        "b/0.parquet",
        "a.parquet",
        "c.json",
        ".a.parquet",
        ".d.parquet.0.tmp",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert list(tables.table_files(tmp_path)) == ["a", "b/0", "b/1.x"]
    assert tables.table_files(tmp_path)["b/1.x"] == tmp_path / "b" / "1.x.parquet"
