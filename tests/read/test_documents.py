"""Document tars: images inside the json (OBELICS) or beside it (MINT-1T), and odd json."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.errors import SampleError
from mmsieve.read import ReadOptions, Record, captions, documents, parse_record
from mmsieve.read.documents import UNREADABLE
from mmsieve.read.json_items import parse_object
from mmsieve.sample import Image, Part, Text
from tests.helpers.shards import image, read, write_tar

JPEG = image()
BASE64 = base64.b64encode(JPEG).decode()
SLOT = {"image_base64": BASE64, "url": "x"}


def parse(document: Any, **members: bytes) -> tuple[Part, ...]:
    """The parts of a document; `a` names a member `a`, `a_b` one `a.b`."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields = {name.replace("_", "."): value for name, value in members.items()}
    return documents.parse(Record("folder/Key1", {"json": data, **fields})).parts


def status(document: Any) -> str:
    with pytest.raises(SampleError) as error:
        parse(document)
    assert "\n" not in str(error.value)
    return error.value.status.value


def test_obelics(tmp_path):
    document = {
        "texts": ["before", None, "after"],
        "image_info": [None, SLOT, None],
        "metadata": {"page": 1},
    }
    found = read(write_tar(tmp_path / "a.tar", [("d0.json", json.dumps(document).encode())]))
    assert found.samples[0].parts == (Text("before"), Image(JPEG), Text("after"))
    assert found.samples[0].metadata == {"metadata": {"page": 1}}
    assert found.samples[0].kind == "document"


@pytest.mark.parametrize(
    ("texts", "infos", "parts"),
    [
        (["a", "b", "c"], [SLOT], (Image(JPEG), Text("a"))),
        (["a"], [None, SLOT, SLOT], (Text("a"), Image(JPEG), Image(JPEG))),
        (["caption"], [SLOT], (Image(JPEG), Text("caption"))),
        ([], [], ()),
        ([None, None], [None, None], ()),
        (["a"], ["no object"], (Text("a"),)),
        ([None], [{"image_base64": None}], ()),
        ([None], [{"image_base64": ""}], ()),
        ([None], [{"url": "x"}], ()),
        ([None], [{"image_base64": 17}], (UNREADABLE,)),
        ([None], [{"image_base64": ["x"]}], (UNREADABLE,)),
        ([None], [{"image_base64": "abc"}], (UNREADABLE,)),
        ([None], [{"image_base64": "é"}], (UNREADABLE,)),
        (["", None], [None, None], (Text(""),)),
    ],
)
def test_slots(texts, infos, parts):
    assert parse({"texts": texts, "image_info": infos}) == parts


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b" \n",
        b"{",
        b"\xff\xfe{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 10_000,
        [],
        None,
        7,
        "text",
        {},
        {"texts": ["a"]},
        {"texts": ["a"], "image_info": None},
        {"texts": ["a"], "image_info": {"0": None}},
        {"texts": None, "image_info": []},
        {"texts": "a", "image_info": [None]},
        {"texts": {"0": "a"}, "image_info": [None]},
        {"texts": [["a"]], "image_info": [None]},
        {"texts": [1], "image_info": [None]},
    ],
)
def test_json_that_is_no_document_is_a_row(document):
    assert status(document) == "json_invalid"


def test_a_missing_json_is_a_row(tmp_path):
    document = json.dumps({"texts": ["a"], "image_info": [None]}).encode()
    found = read(write_tar(tmp_path / "a.tar", [("a.jpg", b"x"), ("b.json", document)]))
    assert found.statuses == ["json_invalid", "ok"]


def test_metadata_always_fits_into_json_and_a_table():
    found = parse_object(
        b'\xef\xbb\xbf{"similarity": NaN, "x": [Infinity, -Infinity], "alt": "cut \\ud83d",'
        b' "whole": "\\ud83d\\ude00", "slash": "\\\\ud83d"}'
    )
    assert found == {
        "similarity": None,
        "x": [None, None],
        "alt": "cut \ufffd",
        "whole": "\U0001f600",
        "slash": "\\ud83d",
    }


def test_half_a_surrogate_pair_in_a_text():
    assert parse(b'{"texts": ["a\\udc00"], "image_info": [null]}') == (Text("a\ufffd"),)


@pytest.mark.parametrize(
    ("names", "members"),
    [
        (["Key1.p0.jpg", "Key1.p1.PNG"], {"p0_jpg": b"0", "p1_png": b"1"}),
        (["some/folder/Key1.p0.jpg", "p1.png"], {"p0_jpg": b"0", "p1_png": b"1"}),
        (["p0", "Key1.p1"], {"p0_jpg": b"0", "p1_png": b"1"}),
        ([0, 1], {"0_jpg": b"0", "1_png": b"1"}),
        (["Key1.jpg", "Key1.png"], {"jpg": b"0", "png": b"1"}),
        (["Key1", "p1"], {"jpg": b"0", "p1_png": b"1"}),
    ],
)
def test_image_members_by_name(names, members):
    parts = parse({"texts": ["a", None, "b"], "images": [None, *names]}, **members)
    assert parts == (Text("a"), Image(b"0"), Image(b"1"), Text("b"))


@pytest.mark.parametrize("names", [["x", "y"], ["Key1.tiff", "Key1.tiff"], [{"page": 3}, 5]])
def test_pages_of_a_tiff_in_order(names):
    document = {"texts": [None, "t", None], "images": [names[0], None, names[1]]}
    assert parse(document, tiff=b"T") == (Image(b"T", 0), Text("t"), Image(b"T", 1))
    assert parse(document, tif=b"T")[2] == Image(b"T", 1)


def test_named_members_are_no_pages():
    document = {"texts": [None] * 3, "images": ["p0", "extra.jpg", "p1"]}
    parts = parse(document, tiff=b"T", extra_jpg=b"E")
    assert parts == (Image(b"T", 0), Image(b"E"), Image(b"T", 1))


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.jpg", "/etc/passwd", "json", "Key1.json", "", {}]
)
def test_an_image_that_is_not_there_is_counted(name):
    assert parse({"texts": [None], "images": [name]}, png_txt=b"x") == (UNREADABLE,)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
slots = json_values | st.fixed_dictionaries({"image_base64": json_values | st.just(BASE64)})


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "texts": json_values | st.lists(st.none() | st.text(max_size=3), max_size=4),
            "image_info": json_values | st.lists(slots, max_size=4),
            "images": json_values | st.lists(json_values, max_size=4),
            "uid": json_values,
        },
    ),
    st.dictionaries(st.sampled_from(["tiff", "jpg", "p0.png", "txt"]), st.just(b"x")),
)
def test_any_json_gives_a_sample_or_a_reason(document, members):
    data = json.dumps(document).encode()
    try:
        sample = parse_record(documents.parse, Record("k", {"json": data, **members}))
    except SampleError:
        return
    json.dumps([sample.uid, sample.metadata], ensure_ascii=False, allow_nan=False).encode()
    assert len(sample.parts) <= 2 * max(
        len(document.get(n) or [])
        for n in ("image_info", "images")
        if isinstance(document.get(n), list)
    )


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from(["json", "txt", "jpg", "tiff", "x"]), st.binary(max_size=60))
)
def test_any_bytes_give_a_sample_or_a_reason(members):
    for parse_any in (documents.parse, captions.MemberParser(ReadOptions())):
        captions.looks_right(members)
        documents.looks_right(members)
        try:
            parse_any(Record("k", members))
        except SampleError as error:
            assert "\n" not in str(error)
