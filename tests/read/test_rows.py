"""Parquet and JSONL: ranges of rows, columns of all kinds, image files named by path."""

import datetime
import json
import os
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.read import Layout, ReadOptions, Record, documents, json_items, layouts, shards
from mmsieve.read.captions import ImageTextParser
from mmsieve.read.documents import UNREADABLE
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sample import Image, Text
from mmsieve.sources import find_files
from tests.helpers.shards import image, read, write_jsonl, write_parquet

JPEG = image()
HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (folder / name).write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "up").symlink_to(tmp_path)
    (folder / "in.jpg").symlink_to("a.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


NEVER_READ = [
    "../secret.jpg",
    "sub/../../secret.jpg",
    "out.jpg",
    "up/secret.jpg",
    "/etc/hostname",
    "missing.jpg",
    "sub",
    ".",
    "pipe.jpg",
    "nul\0.jpg",
    "x" * 5000,
    "a.jpg/b",
]


def test_parquet(tmp_path):
    columns = {"image": [JPEG, JPEG], "caption": ["a", "b"], "uid": ["u", "v"]}
    found = read(write_parquet(tmp_path / "p.parquet", columns))
    assert found.keys == ["p-000000000", "p-000000001"] and found.statuses == ["ok", "ok"]
    assert found.samples[1].parts == (Image(JPEG), Text("b")) and found.samples[1].uid == "v"


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([{"bytes": JPEG, "path": "x"}], HUB),
        ([JPEG], pa.large_binary()),
        ([JPEG], pa.binary(len(JPEG))),
        ([JPEG], pa.dictionary(pa.int32(), pa.binary())),
        ([[{"bytes": JPEG, "path": None}]], pa.list_(HUB)),
    ],
)
def test_columns_of_images(tmp_path, values, type_):
    columns = {"image": values, "text": ["a"]}
    found = read(write_parquet(tmp_path / "p.parquet", columns, {"image": type_}))
    assert found.samples[0].parts == (Image(JPEG), Text("a")) and found.samples[0].kind == "caption"


@pytest.mark.parametrize("type_", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_columns_of_texts(tmp_path, type_):
    columns = {"jpg": [JPEG] * 2, "TEXT": ["a", None]}
    found = read(write_parquet(tmp_path / "p.parquet", columns, {"TEXT": type_}))
    assert found.statuses == ["ok", "text_missing"]


def test_several_images_of_a_row_are_a_document(tmp_path):
    columns = {"images": [[JPEG, b"2"], [], None, [None]], "text": ["a"] * 4}
    found = read(write_parquet(tmp_path / "p.parquet", columns))
    assert found.statuses == ["ok", *["image_missing"] * 3]
    assert found.samples[0].parts == (Image(JPEG), Image(b"2"), Text("a"))
    assert found.samples[0].kind == "document"


def test_nulls_are_rows(tmp_path):
    columns = {"image": [None, JPEG], "caption": [None, None]}
    assert read(write_parquet(tmp_path / "p.parquet", columns)).statuses == [
        "image_missing",
        "text_missing",
    ]
    types = {"image": pa.null(), "caption": pa.null()}
    columns = {"image": [None], "caption": [None]}
    found = read(write_parquet(tmp_path / "q.parquet", columns, types))
    assert found.statuses == ["image_missing"]


def test_images_named_by_path(tmp_path, images):
    names = ["a.jpg", "sub/c.jpg", str(images / "b.jpg"), "in.jpg", *NEVER_READ]
    texts = ["t"] * len(names)
    paths = write_parquet(tmp_path / "p.parquet", {"image": names, "text": texts})
    structs = [{"bytes": None, "path": name} for name in names]
    hub = write_parquet(tmp_path / "q.parquet", {"image": structs, "text": texts}, {"image": HUB})
    for path in (paths, hub):
        found = read(path, images=images)
        assert found.statuses == ["ok"] * 4 + ["image_missing"] * len(NEVER_READ)
        data = [sample.images[0].data for sample in found.samples]
        assert data == [b"a.jpg", b"sub/c.jpg", b"b.jpg", b"a.jpg"]
    assert read(hub).statuses == ["image_missing"] * len(names)
    with pytest.raises(RequestError, match="--images DIR"):
        read(paths)


def test_an_image_file_too_large_is_a_row(tmp_path, images, monkeypatch):
    monkeypatch.setattr("mmsieve.read.MAX_BYTES", 4)
    path = write_parquet(tmp_path / "p.parquet", {"image": ["a.jpg"], "text": ["t"]})
    assert read(path, images=images).statuses == ["image_too_large"]


def test_keys(tmp_path):
    columns = {"id": ["x", None, "x", "p-000000001"], "image": [JPEG] * 4, "text": ["t"] * 4}
    found = read(write_parquet(tmp_path / "p.parquet", columns))
    assert found.keys == ["x", "p-000000001", "p-000000002", "p-000000003"]
    assert found.statuses == ["ok"] * 4
    found = read(tmp_path / "p.parquet", key_column="id")
    assert found.keys == ["x", "p-000000001", "x", "p-000000001"]
    assert found.statuses == ["ok", "ok", "duplicate_key", "duplicate_key"]
    columns = {"id": [7, 8], "image": [JPEG] * 2, "text": ["t"] * 2}
    assert read(write_parquet(tmp_path / "q.parquet", columns)).keys == ["7", "8"]
    columns = {"id": [0.5], "image": [JPEG], "text": ["t"]}
    assert read(write_parquet(tmp_path / "r.parquet", columns)).keys == ["r-000000000"]


def test_any_column_is_metadata_that_fits_into_json(tmp_path):
    columns = {
        "image": [JPEG],
        "text": ["t"],
        "when": [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)],
        "price": [Decimal("1.50")],
        "nano": pa.array([1_600_000_000_000_000_001], pa.timestamp("ns")),
        "far": pa.array([2**60], pa.timestamp("ms")),
        "score": [float("nan")],
        "tags": [["a", "b"]],
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())),
        "mask": [b"\xff" * 100],
        "depth": [{"bytes": b"\xff", "path": "x"}],
        "cat": pa.array(["c"]).dictionary_encode(),
        "took": [datetime.timedelta(seconds=1)],
    }
    found = read(write_parquet(tmp_path / "p.parquet", columns))
    metadata = found.samples[0].metadata
    assert "mask" not in metadata and "depth" not in metadata and metadata["score"] is None
    assert metadata["cat"] == "c" and str(metadata["nano"]).startswith("2020-09-13")
    json.dumps(metadata, ensure_ascii=False, allow_nan=False, default=str).encode()


def test_texts_that_are_not_utf8_are_rows(tmp_path):
    def strings(*values: bytes) -> pa.Array:
        return pa.array(values, pa.binary()).cast(pa.string(), safe=False)

    def broken(*values: bytes) -> pa.Array:
        data = pa.array(values, pa.binary())
        return pa.Array.from_buffers(pa.string(), len(data), data.buffers())

    columns = {
        "image": [JPEG] * 3,
        "text": broken(b"fine", b"caf\xe9", b"fine"),
        "id": broken(b"a", b"b", b"c\xff"),
        "alt": broken(b"x\xff", b"y", b"z"),
    }
    found = read(write_parquet(tmp_path / "p.parquet", columns))
    assert found.statuses == ["ok", "text_undecodable", "ok"]
    assert found.keys == ["a", "b", "c\\xff"]
    assert found.samples[0].metadata["alt"] == "x\ufffd"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"picture": [JPEG], "text": ["t"]}, {}, "--image-column"),
        ({"image": [JPEG], "headline": ["t"]}, {}, "--text-column"),
        ({"image": [1], "text": ["t"]}, {}, "--image-column"),
        ({"image": [JPEG], "text": [[1]]}, {}, "--text-column"),
        ({"url": ["http://a/b"], "text": ["t"]}, {}, "img2dataset"),
        ({"image": ["http://a/b"], "text": ["t"]}, {}, "img2dataset"),
        ({"image": [JPEG], "text": ["t"]}, {"key_column": "k"}, "no column 'k'"),
        ({"image": [JPEG], "text": ["t"]}, {"text_column": "a[b]"}, "write NAME"),
        ({"image": [JPEG], "text": ["t"]}, {"text_column": "title"}, "no column 'title'"),
        ({"image": [JPEG], "text": ["t"], "n": [1]}, {"text_column": "n"}, "of type int64"),
        ({"image": [JPEG], "text": ["t"]}, {"layout": "mmc4"}, r"is for \.jsonl, \.json files"),
        ({"image": [JPEG], "text": ["t"]}, {"images": Path("/none")}, "no such folder"),
    ],
)
def test_columns_that_do_not_fit_are_a_bad_request(tmp_path, columns, options, message):
    path = write_parquet(tmp_path / "p.parquet", columns)
    with pytest.raises(RequestError, match=message) as error:
        read(path, **options)
    assert "\n" not in str(error.value)


def test_columns_can_be_named(tmp_path):
    columns = {"image": [b"no"], "picture": [JPEG], "text": ["no"], "title": ["t"]}
    path = write_parquet(tmp_path / "p.parquet", columns)
    found = read(path, image_column="picture", text_column="title")
    assert found.samples[0].parts == (Image(JPEG), Text("t"))
    assert found.samples[0].metadata == {"text": "no"}


def spans(path: Path, **options: Any) -> list[tuple[int, int | None]]:
    shards = split_files(find_files([str(path)]).files, ReadOptions(**options))
    assert [shard.name for shard in shards] == [f"p-{n:06d}" for n in range(len(shards))]
    return [(shard.start, shard.stop) for shard in shards]


@pytest.mark.parametrize(
    ("rows", "group", "expected"),
    [
        (0, 10, [(0, 0)]),
        (25, 3, [(0, 12), (12, 24), (24, 25)]),
        (25, 10, [(0, 10), (10, 20), (20, 25)]),
        (25, 15, [(0, 15), (15, 25)]),
        (50, 50, [(0, 10), (10, 20), (20, 30), (30, 40), (40, 50)]),
    ],
)
def test_parquet_ranges_end_with_row_groups(tmp_path, monkeypatch, rows, group, expected):
    monkeypatch.setattr(shards, "ROWS", 10)
    columns = {
        "image": pa.array([JPEG] * rows, pa.binary()),
        "text": pa.array(["t"] * rows, pa.string()),
    }
    path = write_parquet(tmp_path / "p.parquet", columns, row_group_size=group)
    assert spans(path) == expected
    found = read(path)
    assert found.keys == [f"p-{n:09d}" for n in range(rows)] and not found.problems


def test_a_corrupt_page_ends_the_shard_where_it_stands(tmp_path):
    columns = {"image": [os.urandom(1000) for _ in range(100)], "text": ["t"] * 100}
    path = write_parquet(
        tmp_path / "p.parquet", columns, row_group_size=50, compression="zstd", use_dictionary=False
    )
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 400] = b"\xff" * 400
    path.write_bytes(data)
    found = read(path)
    assert len(found.samples) == 50 and "unreadable from row 50" in found.problems[0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", b"x" * 100])
def test_what_is_no_parquet_is_named_and_the_others_are_read(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    write_parquet(tmp_path / "b.parquet", {"image": [JPEG], "text": ["t"]})
    found = read(tmp_path)
    assert found.statuses == ["ok"] and "not a Parquet file" in found.problems[0]


def test_files_that_change_after_planning(tmp_path, images):
    parquet = write_parquet(tmp_path / "p.parquet", {"image": [JPEG] * 3, "text": ["t"] * 3})
    jsonl = write_jsonl(tmp_path / "q.jsonl", [{"text_list": ["a"]}] * 3)
    options = ReadOptions(images=images)
    shards = split_files(find_files([str(parquet), str(jsonl)]).files, options)
    write_parquet(parquet, {"image": [JPEG], "text": ["t"]})
    jsonl.write_text("{}\n" * 50)
    for shard in shards:
        with (
            pytest.raises(ShardError, match="the file has changed"),
            open_shard(shard, options) as r,
        ):
            list(r.records)
    jsonl.write_text("{}\n")
    with pytest.raises(ShardError, match="has changed"), open_shard(shards[1], options) as r:
        list(r.records)


def test_mmc4(tmp_path, images):
    infos = [{"image_name": n, "matched_text_index": i} for n, i in (("b.jpg", 1), ("a.jpg", 0))]
    document = {"text_list": ["t0", "t1"], "image_info": infos, "url": "u", "similarity_matrix": []}
    found = read(write_jsonl(tmp_path / "docs.jsonl", [document]), images=images)
    assert found.keys == ["docs-000000000"] and found.samples[0].metadata == {"url": "u"}
    expected = (Image(b"a.jpg"), Text("t0"), Image(b"b.jpg"), Text("t1"))
    assert found.samples[0].parts == expected


@pytest.mark.parametrize("index", [None, "0", 2, -1, True, 0.0, [0]])
def test_an_image_without_its_text_comes_last(images, index):
    info = {"image_name": "a.jpg", "matched_text_index": index}
    line = json.dumps({"text_list": ["t0", "t1"], "image_info": [info]}).encode()
    parts = documents.Mmc4Parser(images)(Record("k", {"line": line})).parts
    assert parts == (Text("t0"), Text("t1"), Image(b"a.jpg"))


@pytest.mark.parametrize("name", [*NEVER_READ, None, 7, "", ["a.jpg"]])
def test_mmc4_images_that_can_not_be_had_are_counted(images, name):
    line = json.dumps({"text_list": ["t"], "image_info": [{"image_name": name}]}).encode()
    assert documents.Mmc4Parser(images)(Record("k", {"line": line})).parts == (
        Text("t"),
        UNREADABLE,
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text_list": ["a"]}', "ok"),
        (b'{"text_list": [], "image_info": null}\r', "ok"),
        (b'\xef\xbb\xbf{"text_list": ["a"]}', "ok"),
        (b"", "json_invalid"),
        (b"  \r", "json_invalid"),
        (b"{", "json_invalid"),
        (b"null", "json_invalid"),
        (b'{"text_list": ["caf\xe9"]}', "json_invalid"),
        (b'{"text_list": "a"}', "json_invalid"),
        (b'{"text_list": [null]}', "json_invalid"),
        (b'{"text_list": ["a"], "image_info": {}}', "json_invalid"),
        (b'{"text_list": ["a"], "image_info": ["a.jpg"]}', "json_invalid"),
    ],
)
def test_every_line_is_a_row(tmp_path, images, line, expected):
    fine = b'{"text_list": ["b"]}'
    for ends in (b"", b"\n"):
        (tmp_path / "a.jsonl").write_bytes(fine + b"\n" + line + b"\n" + fine + ends)
        found = read(tmp_path / "a.jsonl", images=images)
        assert found.statuses == ["ok", expected, "ok"] and not found.problems


def test_jsonl_of_zero_bytes_has_no_rows(tmp_path, images):
    (tmp_path / "p.jsonl").write_bytes(b"")
    assert spans(tmp_path / "p.jsonl", images=images) == [(0, 0)]
    assert read(tmp_path / "p.jsonl", images=images).keys == []


def test_jsonl_needs_its_images(tmp_path):
    document = {"text_list": ["a"], "image_info": [{"image_name": "a.jpg"}]}
    path = write_jsonl(tmp_path / "a.jsonl", [document])
    with pytest.raises(RequestError, match="--images DIR"):
        read(path)


def test_a_line_too_long_to_read_is_a_row(tmp_path, images, monkeypatch):
    monkeypatch.setattr(json_items, "_CHUNK", 100)
    monkeypatch.setattr(json_items, "MAX_BYTES", 1000)
    fine = b'{"text_list": ["b"]}\n'
    (tmp_path / "a.jsonl").write_bytes(fine + b"x" * 5000 + b"\n" + fine + b"x" * 5000)
    found = read(tmp_path / "a.jsonl", images=images)
    assert found.statuses == ["ok", "json_invalid", "ok", "json_invalid"] and not found.problems


@settings(max_examples=200)
@given(st.lists(st.sampled_from([b"", b"\r", b"x", b"yy", b"z" * 30]), max_size=30), st.booleans())
def test_lines_are_split_as_written(tmp_path_factory, lines, ends):
    folder = tmp_path_factory.mktemp("lines")
    data = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    (folder / "p.jsonl").write_bytes(data)
    expected = data.split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    options = ReadOptions(images=folder, layout="mmc4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS", 4)
        patch.setattr(json_items, "_CHUNK", 7)
        patch.setattr(json_items, "_CHUNK", 5)
        found = []
        for shard in split_files(find_files([str(folder)]).files, options):
            with open_shard(shard, options) as reader:
                records = list(reader.records)
                assert len(records) == reader.count <= 4
                found += [record.fields["line"] for record in records]
    assert found == expected


values = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("a.jpg")
infos = st.dictionaries(st.sampled_from(["image_name", "matched_text_index"]), values)


@settings(max_examples=200)
@given(
    st.lists(st.text(max_size=3), max_size=4) | values,
    st.lists(infos | values, max_size=4) | values,
)
def test_any_mmc4_line_gives_a_sample_or_a_reason(texts, infos):
    line = json.dumps({"text_list": texts, "image_info": infos}).encode()
    try:
        sample = documents.Mmc4Parser(Path(__file__).parent)(Record("k", {"line": line}))
    except SampleError:
        return
    assert len(sample.parts) == len(texts) + len(infos or [])
    assert [part.text for part in sample.parts if isinstance(part, Text)] == texts


def test_parsers_travel_to_worker_processes(images):
    types = {"image": pa.string(), "text": pa.string()}
    parser = pickle.loads(pickle.dumps(ImageTextParser(types, ReadOptions(images=images))))
    assert parser(Record("k", {"image": "a.jpg", "text": "t"})).images == (Image(b"a.jpg"),)
    parser = pickle.loads(pickle.dumps(documents.Mmc4Parser(images)))
    assert parser(Record("k", {"line": b'{"text_list": ["t"]}'})).parts == (Text("t"),)


def test_every_layout_that_may_be_asked_for_has_its_row():
    assert layouts.LAYOUTS.keys() == set(get_args(Layout))
    suffixes = {suffix for layout in layouts.LAYOUTS.values() for suffix in layout.suffixes}
    assert suffixes == {".tar", "/", ".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv"}
