"""Caption pairs and documents in the layouts of the field: members, files, rows, items."""

import base64
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve import sources
from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.identity import identify
from mmsieve.read import BROKEN_JSON, ReadOptions, csv_items, shards
from mmsieve.read.columns import SEVERAL, check_caption, is_blank
from mmsieve.sample import Image, Text, collect_notes
from tests.helpers.shards import (
    caption,
    captions,
    image,
    read,
    tar_bytes,
    write_jsonl,
    write_parquet,
    write_tar,
)

JPEG = image()
BASE64 = base64.b64encode(JPEG).decode()
PAIR = (Image(JPEG), Text("t"))


def dumped(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("images/a.jpg", "images/sub/b.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    return tmp_path / "images"


def refused(source: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as error:
        read(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Members of tars


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ({"jpg": JPEG, "txt": b"t"}, {}),
        ({"jpg": JPEG, "txt": b"\xef\xbb\xbft"}, {}),
        ({"jpg": JPEG, "caption": b"t"}, {}),
        ({"img": JPEG, "cap": b"t"}, {}),
        ({"image.png": JPEG, "caption.txt": b"t", "json": b"{}"}, {}),
        ({"avif": JPEG, "txt": b"t"}, {}),
        ({"jpg": JPEG, "json": dumped(caption="t")}, {}),
        ({"jpg": JPEG, "json": dumped(caption=["t", "u"])}, {}),
        ({"jpg": JPEG, "txt": b"u", "json": dumped(title="t")}, {"text_column": "json:title"}),
        (
            {"jpg": JPEG, "syn.json": dumped(syn_text=["u", "t"])},
            {"text_column": "syn.json:syn_text[1]"},
        ),
        ({"jpg": JPEG, "txt": b"u", "recap.txt": b"t"}, {"text_column": "recap.txt"}),
        ({"0.jpg": b"x", "1.jpg": JPEG, "txt": b"t"}, {"image_column": "1.jpg"}),
        ({"bin": JPEG, "words": b"t"}, {"image_column": "bin", "text_column": "words"}),
    ],
)
def test_members_of_a_pair(tmp_path, members, options):
    path = write_tar(tmp_path / "a.tar", [(f"k.{name}", data) for name, data in members.items()])
    found = read(path, **options)
    assert found.statuses == ["ok"] and found.samples[0].parts == PAIR


@pytest.mark.parametrize("broken", [b"[1]", b"", b'{"a":', b'{"n":' + b"9" * 5000 + b"}"])
def test_a_broken_json_costs_nothing(tmp_path, broken):
    members = [("k.jpg", JPEG), ("k.txt", b"t"), ("k.json", broken)]
    with collect_notes() as notes:
        found = read(write_tar(tmp_path / "a.tar", members))
    assert found.samples[0].parts == PAIR and found.samples[0].metadata == {}
    assert notes == {BROKEN_JSON}


def test_members_that_are_not_found_name_the_rule(tmp_path):
    members = [("v1.0 shot.jpg", JPEG), ("v1.0 shot.txt", b"t"), ("b.jpg", JPEG), ("b.txt", b"t")]
    found = read(write_tar(tmp_path / "a.tar", members))
    assert found.statuses == ["image_missing", "ok"]
    message = refused(write_tar(tmp_path / "b.tar", members[:2]))
    assert "first dot" in message and "--image-column" in message
    urls = [("a.url.txt", b"http://x"), ("a.json", b"{}")]
    assert "img2dataset" in refused(write_tar(tmp_path / "c.tar", urls))


def test_recognising_looks_all_over_a_tar(tmp_path):
    odd = [(f"{n:03}.5 odd.{kind}", b"x") for n in range(200) for kind in ("jpg", "txt")]
    found = read(write_tar(tmp_path / "a.tar", [*odd, *caption("z")]))
    assert found.statuses == [*["image_missing"] * 200, "ok"]


# Captions that say nothing


@pytest.mark.parametrize(
    "text", ["", " \n\t", "None", "nan", "<NA>", "\u200b\ufeff", "\0", "\u2800"]
)
def test_blank_texts_are_missing_where_a_text_is_needed(tmp_path, text):
    assert is_blank(text)
    path = write_tar(tmp_path / "a.tar", [("k.jpg", JPEG), ("k.txt", text.encode())])
    (sample,) = read(path).samples
    with pytest.raises(SampleError, match="says nothing"):
        check_caption(sample)


@pytest.mark.parametrize("text", ["A nan bread.", "...", "0", "no", "\U0001f525", "\u6e2f"])
def test_short_texts_are_texts(text):
    assert not is_blank(text)


# Files


def write_files(folder: Path, count: int = 3) -> Path:
    """What img2dataset writes with --output_format files."""
    (folder / "00000").mkdir(parents=True)
    for n in range(count):
        for kind, data in (("jpg", JPEG), ("txt", b"t"), ("json", dumped(uid=str(n)))):
            (folder / f"00000/{n:03}.{kind}").write_bytes(data)
    write_parquet(folder / "00000.parquet", {"url": ["http://x"], "caption": ["t"]})
    (folder / "00000_stats.json").write_text("{}")
    return folder


def test_a_folder_of_files(tmp_path, monkeypatch):
    found = read(write_files(tmp_path / "f", 5))
    assert found.keys == [f"{n:03}" for n in range(5)] and found.statuses == ["ok"] * 5
    assert found.samples[0].parts == PAIR and found.samples[4].uid == "4"
    found_shards = shards.split_files(sources.find_files([str(tmp_path)]).files, ReadOptions())
    assert [shard.name for shard in found_shards] == ["00000"]
    monkeypatch.setattr(shards, "ROWS", 2)
    found_shards = shards.split_files(sources.find_files([str(tmp_path)]).files, ReadOptions())
    assert [shard.name for shard in found_shards] == [f"00000-{n:06}" for n in range(3)]
    assert read(tmp_path).keys == found.keys


def test_a_folder_is_known_by_what_is_in_it(tmp_path):
    first = identify(f"{write_files(tmp_path / 'f')}/00000/")
    copy = identify(f"{write_files(tmp_path / 'g')}/00000/")
    assert first.size == sources.find_files([str(tmp_path / "f")]).files[0].size
    assert first.is_same(copy)
    (tmp_path / "g/00000/000.txt").write_text("u")
    assert not first.is_same(identify(f"{tmp_path}/g/00000/"))


def test_files_of_a_folder_that_are_no_pairs(tmp_path):
    folder = tmp_path / "v1.5 data"
    folder.mkdir()
    for name in ("shot v1.0.jpg", "b.png", "c.txt", "README.md"):
        (folder / name).write_bytes(JPEG)
    (folder / "shot v1.0.caption").write_text("t")
    found = read(folder)
    assert found.keys == ["b", "c", "shot v1.0"]
    assert found.statuses == ["text_missing", "image_missing", "ok"]
    (folder / "shot v1.0.caption").unlink()
    (folder / "c.txt").unlink()
    assert "no captions" in refused(folder)


# Rows and items


LINES = [{"file_name": "a.jpg", "text": "t"}, {"file_name": "sub/b.jpg", "text": "u"}]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_of_images_with_metadata(images, kind):
    path = images / f"metadata.{kind}"
    if kind == "jsonl":
        write_jsonl(path, LINES)
    elif kind == "csv":
        path.write_text("file_name,text\na.jpg,t\nsub/b.jpg,u\n")
    else:
        write_parquet(path, {n: [line[n] for line in LINES] for n in ("file_name", "text")})
    found = read(images)
    assert [sample.parts[1] for sample in found.samples] == [Text("t"), Text("u")]
    assert found.keys == ["metadata-000000000", "metadata-000000001"]


@pytest.mark.parametrize(
    ("item", "options"),
    [
        ({"image": "a.jpg", "caption": "t"}, {}),
        ({"image": "a.jpg", "caption": ["t", "u"]}, {}),
        ({"image": "a.jpg", "captions": ["u", "t"]}, {"text_column": "captions[1]"}),
        ({"filepath": "a.jpg", "title": "t"}, {}),
        ({"image": "file://IMAGES/a.jpg", "text": "t"}, {}),
        ({"image": BASE64, "text": "t"}, {}),
        ({"image_base64_str": [BASE64], "targets": "t"}, {"text_column": "targets"}),
        ({"image": f"data:image/jpeg;base64,{BASE64}", "text": "t"}, {}),
        ({"image": {"path": "a.jpg"}, "text": "\ufefft", "id": 7}, {}),
        ({"pic": "a.jpg", "meta": {"c": "t"}}, {"image_column": "pic", "text_column": "meta:c"}),
    ],
)
def test_items_of_pairs(tmp_path, images, item, options):
    item = json.loads(json.dumps(item).replace("IMAGES", str(images)))
    broken = {"image": None, "caption": "t", "text": "t", "targets": "t"}
    (tmp_path / "list.json").write_text(json.dumps([item, broken]))
    for path in (write_jsonl(tmp_path / "a.jsonl", [item, broken]), tmp_path / "list.json"):
        found = read(path, images=images, **options)
        assert found.statuses == ["ok", "image_missing"] and found.samples[0].parts == PAIR
    if not {"pic"} & item.keys():
        assert found.samples[0].metadata.keys() <= {"id"}


def test_an_option_says_which_caption(tmp_path, images):
    path = write_jsonl(tmp_path / "a.jsonl", [{"image": "a.jpg", "captions": ["t", "u"]}])
    with collect_notes() as notes:
        assert read(path, images=images).samples[0].parts == PAIR
    assert notes == {SEVERAL}
    columns = {"image": [JPEG], "sentences": [["u", "t"]]}
    found = read(write_parquet(tmp_path / "a.parquet", columns), text_column="sentences[1]")
    assert found.samples[0].parts == PAIR


def test_keys_of_items(tmp_path, images):
    items = [{"id": key, "image": "a.jpg", "text": "t", "n": n} for n, key in enumerate("aba")]
    path = write_jsonl(tmp_path / "p.jsonl", items)
    found = read(path, images=images)
    assert found.keys == ["a", "b", "p-000000002"] and found.statuses == ["ok"] * 3
    assert read(path, images=images, key_column="n").keys == ["0", "1", "2"]
    assert read(path, images=images, key_column="id").statuses[2] == "duplicate_key"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"file": "a.jpg", "words": "t"}, "its items have file, words"),
        ({"image": "a.jpg", "words": "t"}, "--text-column"),
        ({"text": "t", "meta": 1}, "--image-column"),
        ({"url": "http://x", "caption": "t"}, "img2dataset"),
        ({"image": "http://x/a.jpg", "caption": "t"}, "img2dataset"),
        ({"image": "a.jpg", "caption": "t"}, "--images DIR"),
        ({"info": {}, "images": [{"id": 1}], "annotations": []}, "info, images, annotations"),
        ({"content": [{"type": "text", "text": "t"}]}, "its items have content"),
    ],
)
def test_items_that_are_not_recognised(tmp_path, item, message):
    for name in ("a.jsonl", "a.json"):
        assert message in refused(write_jsonl(tmp_path / name, [item] * 70))


def test_items_further_on_tell_the_layout(tmp_path, images):
    items = [*[{"odd": 1}] * 100, {"image": "a.jpg", "text": "t"}]
    found = read(write_jsonl(tmp_path / "a.jsonl", items), images=images)
    assert found.statuses[-1] == "ok" and len(found.statuses) == 101


def test_tables_of_text(tmp_path, images):
    rows = 'filepath\ttitle\na.jpg\t"t"\n\nsub/b.jpg\t"two\nlines"\na.jpg\tu\tmore\n'
    (tmp_path / "a.tsv").write_text(rows)
    found = read(tmp_path / "a.tsv", images=images)
    assert found.statuses == ["ok", "ok", "json_invalid"]
    assert [sample.parts[1] for sample in found.samples] == [Text("t"), Text("two\nlines")]
    (tmp_path / "b.tsv").write_text("A red square.\thttp://x\nA blue one.\thttp://y\n")
    assert "its items have A red square., http://x" in refused(tmp_path / "b.tsv", images=images)
    (tmp_path / "c.csv").write_text("")
    assert read(tmp_path / "c.csv").keys == []


cells = st.text(st.sampled_from('ab",\n\t\u00e9 '), max_size=5)


@given(st.lists(st.lists(cells, min_size=2, max_size=2), max_size=12), st.integers(1, 5))
def test_ranges_of_rows_are_the_rows(rows, size):
    import csv

    out = io.StringIO()
    csv.writer(out).writerows([["x", "y"], *rows])
    file = io.BytesIO(out.getvalue().encode())
    starts = [*csv_items.row_starts(file, ".csv"), len(file.getvalue())]
    bounds = starts[:-1:size]
    ranges = zip(bounds, [*bounds[1:], starts[-1]], strict=False)
    found = [item for span in ranges for item in csv_items.row_items(file, ".csv", *span)]
    assert [list(json.loads(item).values()) for item in found] == rows
    assert len(starts) - 1 == len(rows)


def test_arrow_files_of_a_saved_data_set(tmp_path):
    table = pa.table({"image": [{"bytes": JPEG, "path": None}] * 70, "text": ["t"] * 70})
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as out:
        out.write_table(table)
    with pa.ipc.new_file(folder / "other.arrow", table.schema) as out:
        out.write_table(table.slice(0, 1))
    (folder / "cache-0123.arrow").write_bytes(b"x")
    (folder / "state.json").write_text("{}")
    found = read(tmp_path)
    assert found.statuses == ["ok"] * 71 and found.samples[0].parts == PAIR
    (folder / "broken.arrow").write_bytes(b"x")
    assert "not an Arrow file" in read(folder / "broken.arrow").problems[0]


# Compressed files


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar.gz", gzip.compress),
        ("a.tgz", gzip.compress),
        ("a.tar", gzip.compress),
        ("a.tar.xz", lzma.compress),
        ("a.tar.zst", lambda data: pa.compress(data, "zstd", asbytes=True)),
    ],
)
def test_compressed_tars(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(tar_bytes(captions(3))))
    for source in (tmp_path, tmp_path / name):
        found = read(source)
        assert found.statuses == ["ok"] * 3
    assert sources.find_files([str(tmp_path)]).files[0].name == "a"


def test_compressed_items(tmp_path, images, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 2)
    lines = "".join(json.dumps({"image": "a.jpg", "text": "t"}) + "\n" for _ in range(5))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert read(tmp_path / "a.jsonl.gz", images=images).keys == [f"a-{n:09}" for n in range(5)]


def test_what_expands_without_end_or_is_damaged_is_named(tmp_path, monkeypatch):
    data = gzip.compress(tar_bytes(captions(3)))
    (tmp_path / "a.tar.gz").write_bytes(data[:-40])
    assert "can't be unpacked" in read(tmp_path / "a.tar.gz").problems[0]
    monkeypatch.setattr(sources, "_ALWAYS", 10)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    assert "expands to more" in read(tmp_path / "b.tar.gz").problems[0]
    with pytest.raises(ShardError), sources.unpacked(str(tmp_path / "b.tar.gz")):
        pass


# Documents


DOCUMENT = (Image(JPEG), Text("a"), Image(JPEG), Text("b"))
SLOTS = {"images": ["a.jpg", None, "sub/b.jpg", None], "texts": [None, "a", None, "b"]}


@pytest.mark.parametrize(
    "item",
    [
        SLOTS | {"url": "u"},
        {"text_list": SLOTS["texts"], "image_list": SLOTS["images"], "url": "u"},
        {
            "text": "<__dj__image> a <|__dj__eoc|> <__dj__image> b <|__dj__eoc|>",
            "images": ["a.jpg", "sub/b.jpg"],
            "url": "u",
        },
    ],
)
def test_items_of_documents(tmp_path, images, item):
    (tmp_path / "list.json").write_text(json.dumps([item]))
    for path in (write_jsonl(tmp_path / "p.jsonl", [item]), tmp_path / "list.json"):
        found = read(path, images=images)
        assert found.samples[0].parts == DOCUMENT and found.samples[0].metadata == {"url": "u"}
        assert found.samples[0].kind == "document" and "--images DIR" in refused(path)


def test_rows_of_documents(tmp_path, images):
    hub = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    texts, there = [SLOTS["texts"]], {"bytes": JPEG, "path": None}
    columns = {"images": [[there, None, there, None]], "texts": texts}
    inside = write_parquet(tmp_path / "a.parquet", columns, {"images": hub})
    assert read(inside).samples[0].parts == DOCUMENT
    paths = write_parquet(tmp_path / "b.parquet", {"images": [SLOTS["images"]], "texts": texts})
    assert read(paths, images=images).samples[0].parts == DOCUMENT
    assert "--images DIR" in refused(paths)
    columns = {"images": [["http://x", None, "http://y", None]], "texts": texts}
    assert "img2dataset" in refused(write_parquet(tmp_path / "c.parquet", columns))


def test_a_page_that_can_not_be_had_is_counted(tmp_path, images):
    item = {"images": ["gone.jpg", None], "texts": [None, "a"]}
    found = read(write_jsonl(tmp_path / "p.jsonl", [item]), images=images)
    assert found.samples[0].parts == (Image(b""), Text("a"))
    assert "gone.jpg" in found.samples[0].images[0].problem


def test_mmc4_in_a_tar(tmp_path):
    infos = [
        {"image_base64": BASE64, "matched_text_index": 0},
        {"image_name": "d.1.jpg", "matched_text_index": 1},
    ]
    document = {"text_list": ["a", "b"], "image_info": infos, "similarity_matrix": [], "url": "u"}
    members = [("d.json", dumped(**document)), ("d.1.jpg", JPEG)]
    found = read(write_tar(tmp_path / "a.tar", members))
    assert found.samples[0].parts == DOCUMENT and found.samples[0].metadata == {"url": "u"}


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO"]
)
def test_any_format_may_be_in_base64(tmp_path, format):
    data = image(3, format, (40, 40))
    write_jsonl(tmp_path / "a.jsonl", [{"image": base64.b64encode(data).decode(), "text": "t"}])
    (sample,) = read(tmp_path / "a.jsonl").samples
    assert sample.images[0].data == data


def test_a_page_in_base64_is_one_bad_row_among_good_ones(tmp_path):
    page = base64.b64encode(b"<html>404 not found</html>").decode()
    write_jsonl(
        tmp_path / "a.jsonl", [{"image": page, "text": "t"}, {"image": BASE64, "text": "t"}]
    )
    found = read(tmp_path / "a.jsonl")
    assert found.statuses == ["ok", "ok"]  # and then no image, when it is decoded
    assert found.samples[0].images[0].data.startswith(b"<html>")
