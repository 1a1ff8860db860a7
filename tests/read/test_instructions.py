"""Instruction items of JSON, JSONL and Parquet files: turns, images, keys, ranges, odd content."""

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.errors import SampleError, ShardError
from mmsieve.read import ReadOptions, Record, shards
from mmsieve.read.conversations import LISTS, PAIRS, Dialogue, form_names
from mmsieve.read.instructions import InstructionParser, image_source, item_key
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sample import Image, Text, Turn
from mmsieve.sources import find_files
from tests.helpers.instruction_files import (
    TALK,
    TURNS,
    item,
    plan,
    request_error,
    write_either,
    write_json,
)
from tests.helpers.shards import captions, image, read, write_jsonl, write_parquet, write_tar

JPEG = image()


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    (folder / "coco").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    for name in ("a.jpg", "coco/b.jpg"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture(params=["qas.json", "qas.jsonl", "lines.json"])
def qas(request, tmp_path) -> Any:
    """Writes items as a list, as lines, and as lines under the name of a list."""

    def write(items: list[Any]) -> Path:
        path = tmp_path / request.param
        return (write_json if request.param == "qas.json" else write_jsonl)(path, items)

    return write


def test_an_item_is_a_sample(qas, images):
    more = {"idx": 7, "image": ["a.jpg", "coco/b.jpg"], "data_source": "vqa", "lang": {"x": [1]}}
    found = read(qas([item(1, **more), item(2, image=None), item(3)]), images=images)
    sample = found.samples[0]
    assert found.keys == ["7", "i2", "i3"] and found.statuses == ["ok"] * 3
    assert sample.kind == "instruction" and sample.turns == TURNS
    assert sample.parts == sample.images == (Image(b"a.jpg"), Image(b"coco/b.jpg"))
    assert sample.metadata == {
        "id": "i1",
        "idx": 7,
        "data_source": "vqa",
        "lang": {"x": [1]},
        "image_source": "vqa",
    }
    assert [sample.parts for sample in found.samples[1:]] == [(), ()]
    assert found.samples[2].metadata["image_source"] is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_source": "given", "data_source": "d", "image": "coco/b.jpg"}, "given"),
        ({"image_source": None, "data_source": "d"}, "d"),
        ({"image_source": "", "image": "coco/train/b.jpg"}, "coco"),
        ({"image": "/coco/b.jpg"}, "coco"),
        ({"image": "./coco/b.jpg"}, "coco"),
        ({"image": ["vg/b.jpg", "coco/b.jpg"]}, "vg"),
        ({"image": {"path": "vg/b.jpg", "bytes": b"x"}}, "vg"),
        ({"images": ["vg/b.jpg"]}, "vg"),
        ({"image": "b.jpg"}, None),
        ({"image": b"x"}, None),
        ({"image": "data:image/png;base64,aa/b"}, None),
        ({}, None),
    ],
)
def test_where_an_item_comes_from(fields, expected):
    assert image_source(fields) == expected


def test_keys(qas):
    ids = [{"idx": 0, "id": "a"}, {"idx": None, "id": 5}, {"id": ""}, {"id": True}, {"idx": "x"}]
    path = qas([{"conversations": TALK} | fields for fields in [*ids, {"id": "x"}]])
    found = read(path)
    assert found.keys == ["0", "5", f"{path.stem}-000000002", f"{path.stem}-000000003", "x", "x"]
    assert found.statuses == ["ok"] * 6, "an id that comes twice names two samples"
    assert item_key({}, "s", 3) == "s-000000003"


def test_messages(images):
    parser = InstructionParser(ReadOptions(images=images))
    address = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    asked = [
        {"type": "image", "image": "a.jpg"},
        {"type": "text", "text": "Which?"},
        {"type": "image_url", "image_url": {"url": address}},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": "The second."},
    ]
    sample = parser(Record("k", {"messages": messages}))
    assert sample.turns == (
        Turn("system", "Be brief."),
        Turn("user", "<image>\nWhich?\n<image>"),
        Turn("assistant", "The second."),
    )
    assert sample.images == (Image(b"a.jpg"), Image(JPEG))
    sample = parser(Record("k", {"messages": messages, "images": ["coco/b.jpg"]}))
    assert sample.images == (Image(b"coco/b.jpg"),)
    mixed = [{"role": "user", "content": "Hi"}, {"from": "model", "value": "Yes"}]
    sample = parser(Record("k", {"conversations": mixed}))
    assert sample.turns == (Turn("user", "Hi"), Turn("assistant", "Yes"))


@pytest.mark.parametrize(
    ("odd", "status"),
    [
        ("text", "json_invalid"),
        ([TALK], "json_invalid"),
        (None, "json_invalid"),
        ({"id": "x"}, "text_missing"),
        (item(conversations=None), "text_missing"),
        (item(conversations=[]), "text_missing"),
        (item(conversations="Hi"), "json_invalid"),
        (item(conversations=["Hi"]), "json_invalid"),
        (item(conversations=[{"from": "human"}]), "text_missing"),
        (item(conversations=[{"from": "human", "value": 5}]), "json_invalid"),
        (item(conversations=[{"from": "tool", "value": "x"}]), "json_invalid"),
        (item(conversations=[{"from": ["human"], "value": "x"}]), "json_invalid"),
        (item(conversations=[{"value": "x"}]), "json_invalid"),
        (
            item(conversations=[{"from": "human", "value": [{"type": "video"}]}]),
            "unsupported_media",
        ),
        (item(image=5), "json_invalid"),
        (item(image={"url": "x"}), "json_invalid"),
        (item(image=["a.jpg", None]), "json_invalid"),
        (item(image="missing.jpg"), "image_missing"),
        (item(image="../secret.jpg"), "image_missing"),
        (item(image="coco/../../secret.jpg"), "image_missing"),
        (item(image="out.jpg"), "image_missing"),
        (item(image="/etc/hostname"), "image_missing"),
        (item(image=["a.jpg", "https://example.org/a.jpg"]), "image_missing"),
        (item(image="file:///etc/hostname"), "image_missing"),
        (item(image="data:image/png,abc"), "image_undecodable"),
        (item(image="data:image/png;base64,*"), "image_undecodable"),
        (item(image=""), "ok"),
        (item(image=[]), "ok"),
        (item(image=None, images=["a.jpg"]), "ok"),
    ],
)
def test_an_odd_item_is_a_row(qas, images, odd, status):
    found = read(qas([item(1), odd, item(2)]), images=images)
    assert found.statuses == ["ok", status, "ok"] and not found.problems


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("a.jpg"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from", "value", "role", "content", "type", "text", "image", "url"]),
            inner | st.sampled_from(["human", "assistant", "text", "image", "image_url"]),
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["conversations", "messages", "image", "images", "idx", "id", "x"]), values
    )
)
def test_any_item_gives_a_sample_or_a_reason(fields):
    try:
        sample = InstructionParser(ReadOptions(images=Path("/nowhere")))(Record("k", fields))
    except SampleError as error:
        assert "\n" not in str(error)
        return
    assert sample.turns and "image_source" in sample.metadata
    assert len(sample.turns) == len(fields.get("conversations") or fields["messages"])


@settings(max_examples=30)
@given(
    st.integers(0, 13),
    st.sampled_from([None, 1]),
    st.sampled_from(["", "]", ",", " \n]\n", ",]", "] x", "]["]),
)
def test_a_list_is_cut_into_ranges(tmp_path_factory, count, indent, end):
    """Whatever ends the list, well or badly: the items are read, and a bad end is named once."""
    folder = tmp_path_factory.mktemp("list")
    items = [item(number, text="\u00e9 \U0001f600") for number in range(count)]
    whole = json.dumps(items, indent=indent, ensure_ascii=False).rstrip("]\n")
    (folder / "p.json").write_text(whole + end, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS", 4)
        starts = range(0, max(count, 1), 4)
        expected = [(f"p-{n:06d}", start, min(start + 4, count)) for n, start in enumerate(starts)]
        assert plan(folder) == expected
        found = read(folder)
    assert found.keys == [f"i{number}" for number in range(count)]
    assert [sample.metadata["text"] for sample in found.samples] == ["\u00e9 \U0001f600"] * count
    is_fine = end.strip() == "]" or (end == ",]" and count > 0)
    assert [("byte" in problem) for problem in found.problems] == ([] if is_fine else [True])


def test_a_list_that_breaks_is_read_up_to_there(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 4)
    parts = [json.dumps(item(number)) for number in range(10)]
    parts[8] = parts[8][:-20]
    (tmp_path / "p.json").write_text(f"[{','.join(parts)}]")
    found = read(tmp_path / "p.json")
    assert found.statuses == ["ok"] * 8 and len(found.problems) == 1
    assert "byte" in found.problems[0]


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff\xfe[\0", b"[", b"[nothing]"])
def test_what_is_no_list_is_named_and_the_others_are_read(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    write_json(tmp_path / "b.json", [item()])
    found = read(tmp_path)
    assert found.statuses == ["ok"] and "byte" in found.problems[0]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_range_whose_file_has_changed_is_named(tmp_path, suffix):
    path = write_either(tmp_path / f"p{suffix}", [item(n) for n in range(3)])
    (shard,) = split_files(find_files([str(path)]).files, ReadOptions())
    write_either(path, [item()])
    with pytest.raises(ShardError), open_shard(shard, ReadOptions()) as reader:
        list(reader.records)
    write_either(path, [{"a": n} for n in range(100)])
    with pytest.raises(ShardError, match="changed"), open_shard(shard, ReadOptions()) as reader:
        list(reader.records)


def test_json_beside_other_files_is_left_alone(tmp_path):
    write_json(tmp_path / "info.json", [item()])
    assert [shard.name for shard in find_files([str(tmp_path)]).files] == ["info"]
    write_jsonl(tmp_path / "qas.jsonl", [item()])
    found = find_files([str(tmp_path)])
    assert [shard.name for shard in found.files] == ["qas"] and "1 .json" in found.notes[0]
    both = find_files([str(tmp_path / "info.json"), str(tmp_path / "qas.jsonl")])
    assert [shard.name for shard in both.files] == ["info", "qas"]


def test_what_can_not_be_read_is_a_bad_request(tmp_path, qas, images):
    assert "--images DIR" in request_error(qas([item(), item(image="a.jpg")]))
    parts = [{"type": "image", "image": "a.jpg"}]
    asked = {"messages": [{"role": "user", "content": parts}]}
    assert "--images DIR" in request_error(qas([asked]))
    (tmp_path / "stats.json").write_text('{\n "count": 5,\n "failed": 0\n}')
    assert "not recognised" in request_error(tmp_path / "stats.json")
    other = write_json(tmp_path / "other.json", [{"a": 1}])
    assert "not recognised" in request_error(other)
    assert read(other, layout="instructions").statuses == ["text_missing"]
    tar = write_tar(tmp_path / "a.tar", captions(1))
    assert "--layout instructions is for" in request_error(tar, layout="instructions")


def test_documents_of_lines_are_still_documents(tmp_path, images):
    path = write_jsonl(tmp_path / "docs.jsonl", [{"text_list": ["a"], "image_info": []}])
    assert read(path, images=images).samples[0].kind == "document"
    assert read(path, layout="instructions").statuses == ["text_missing"]


TALKS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_parquet(tmp_path, images):
    paths = ("a.jpg", None)
    columns = {
        "id": ["a", "b", None, "d"],
        "image": [
            {"bytes": JPEG, "path": "vg/x.jpg"},
            *({"bytes": None, "path": path} for path in paths),
            None,
        ],
        "conversations": [TALK, TALK, TALK, None],
        "data_source": ["d", None, None, None],
        "score": [float("nan"), 1.0, 2.0, 3.0],
        "mask": [b"x"] * 4,
    }
    path = write_parquet(tmp_path / "p.parquet", columns, {"image": HUB, "conversations": TALKS})
    found = read(path, images=images)
    assert found.keys == ["a", "b", "p-000000002", "d"]
    assert found.statuses == ["ok", "ok", "ok", "text_missing"]
    assert [sample.images for sample in found.samples] == [(Image(JPEG),), (Image(b"a.jpg"),), ()]
    assert found.samples[0].turns == TURNS and found.samples[0].kind == "instruction"
    assert found.samples[0].metadata == {
        "id": "a",
        "data_source": "d",
        "image_source": "d",
        "score": None,
    }
    assert read(path).statuses == ["ok", "image_missing", "ok", "text_missing"]


@pytest.mark.parametrize(
    ("values", "type_", "count"),
    [
        ([[{"bytes": JPEG, "path": None}] * 2], pa.list_(HUB), 2),
        ([JPEG], pa.binary(), 1),
        ([[JPEG]], pa.list_(pa.binary()), 1),
        ([None], pa.null(), 0),
        ([[]], pa.list_(HUB), 0),
    ],
)
def test_columns_of_images(tmp_path, values, type_, count):
    columns = {"images": values, "messages": [[{"role": "user", "content": "Hi"}]]}
    found = read(write_parquet(tmp_path / "p.parquet", columns, {"images": type_}))
    assert found.samples[0].images == (Image(JPEG),) * count
    assert found.samples[0].turns == (Turn("user", "<image>\n" * count + "Hi"),)


def test_columns_that_decide(tmp_path, images):
    columns = {"image": ["a.jpg"], "conversations": [TALK], "caption": ["c"], "pic": [JPEG]}
    path = write_parquet(tmp_path / "p.parquet", columns)
    assert "--images DIR" in request_error(path)
    assert read(path, images=images).samples[0].kind == "instruction"
    assert read(path, image_column="pic").samples[0].images == (Image(JPEG),)
    assert read(path, images=images, text_column="caption").samples[0].kind == "caption"
    assert read(path, images=images, layout="image-parquet").samples[0].kind == "caption"
    path = write_parquet(tmp_path / "q.parquet", {"image": [JPEG], "text": ["t"]})
    assert "no column of turns" in request_error(path, layout="instructions")


QA = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}]
MARKED = (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A cat."))
"""What each form says, with the image that is beside it."""
PARTS = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
FORMS: dict[str, dict[str, Any]] = {
    form.fields[-1]: dict(form.example) for form in (*LISTS, *PAIRS)
}
FORMS |= {
    "a JSON text": {"conversations": json.dumps(FORMS["conversations"]["conversations"])},
    "parts": {
        "messages": [
            {"role": "user", "content": PARTS},
            {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        ]
    },
    "MiniCPM-V": {"conversations": QA},
    "texts": {"prompt": "What is it?", "completion": "A cat."},
    "ratings": FORMS["texts"] | {"relevance_min": 5},
    "marks": {"query": "<image>\nWhat is it?", "response": "A cat.", "history": []},
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_comes_to_the_same(qas, tmp_path, images, name):
    paths = {"image" if name == "conversations" else "images": ["coco/b.jpg"]}
    lines = read(qas([FORMS[name] | paths]), images=images, kinds=("instruction",))
    columns = {key: [value] for key, value in FORMS[name].items()} | {"image": [JPEG]}
    table = write_parquet(tmp_path / "p.parquet", columns)
    rows = read(table, kinds=("instruction",))
    assert [sample.turns for sample in (*lines.samples, *rows.samples)] == [MARKED, MARKED]
    assert lines.samples[0].images == (Image(b"coco/b.jpg"),)
    assert rows.samples[0].images == (Image(JPEG),)
    assert lines.samples[0].metadata["image_source"] == "coco"
    if "relevance_min" in FORMS[name]:
        assert lines.samples[0].metadata["relevance_min"] == 5


def test_earlier_turns_come_first(images):
    item = {"query": "And now?", "response": "b", "history": [["What?", "a"]], "images": ["a.jpg"]}
    sample = InstructionParser(ReadOptions(images=images))(Record("k", item))
    assert [turn.text for turn in sample.turns] == ["<image>\nWhat?", "a", "And now?", "b"]


def test_where_an_image_without_a_mark_stands(qas, images):
    """LLaVA's form has a mark for each image; only an option puts them first."""
    bare = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]
    marked = FORMS["conversations"]["conversations"]
    path = qas([item(image="a.jpg", conversations=talk) for talk in (bare, marked)])
    found = read(path, images=images)
    assert [sample.turns[0].text for sample in found.samples] == [bare[0]["value"], MARKED[0].text]
    found = read(path, images=images, images_first=True)
    assert [sample.turns for sample in found.samples] == [MARKED, MARKED]


def test_images_that_texts_name(qas, images):
    named = {"<image_00>": "a.jpg", "<image_01>": "coco/b.jpg"}
    minicpm = "<image_01>\n<image_00> What differs from <image_02>?"
    qwen = "Picture 1: <img>a.jpg</img>\nPicture 2: <img>coco/b.jpg</img> <img src=x>"
    texts = [{"image": named}, minicpm], [{}, qwen], [{"image": "a.jpg"}, qwen]
    items = [
        {
            "conversations": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": "<img>x</img>"},
            ]
        }
        | more
        for more, text in texts
    ]
    found = read(qas(items), images=images)
    assert found.statuses == ["ok", "ok", "unsupported_media"]
    first, second = found.samples
    assert first.turns[0].text == "<image>\n<image> What differs from <image_02>?"
    assert first.images == (Image(b"coco/b.jpg"), Image(b"a.jpg"))
    assert second.turns[0].text == "Picture 1: <image>\nPicture 2: <image> <img src=x>"
    assert second.images == (Image(b"a.jpg"), Image(b"coco/b.jpg"))
    assert second.turns[1].text == "<img>x</img>"


def test_images_in_every_spelling(images):
    text = base64.b64encode(JPEG).decode()
    folded = "\n".join(text[n : n + 76] for n in range(0, len(text), 76))
    there = images / "coco" / "b.jpg"
    parser = InstructionParser(ReadOptions(images=images))
    for value in (text, f"data:image;base64,{folded}", [text], {"path": text}):
        assert parser(Record("k", item(image=value))).images == (Image(JPEG),)
    for value in (f"file://{there}", str(there), "coco/../coco/b.jpg", {"path": "coco/b.jpg"}):
        sample = parser(Record("k", item(image=value)))
        assert sample.images == (Image(b"coco/b.jpg"),)
        assert sample.metadata["image_source"] == "coco", value
    for value in ([None], [""], None, "", [], [{"bytes": None, "path": None}], {"path": ""}):
        assert parser(Record("k", item(image=value))).images == ()


def test_a_source_that_is_asked_for(images):
    item = {"messages": QA, "images": ["coco/b.jpg"], "origin": "vqa"}
    for asked, source in (("origin", "vqa"), ("path:1", "coco"), ("path:2", None), ("id", None)):
        options = ReadOptions(images=images, source_column=asked)
        found = InstructionParser(options)(Record("k", item))
        assert found.metadata["image_source"] == source


@pytest.mark.parametrize(
    ("odd", "status"),
    [
        ({"video": "a.mp4", "conversations": TALK}, "unsupported_media"),
        (
            {"videos": ["a.mp4"], "messages": [{"role": "user", "content": "Hi"}]},
            "unsupported_media",
        ),
        ({"messages": [{"role": "user", "content": "<image><video>Hi"}]}, "unsupported_media"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "unsupported_media",
        ),
        ({"messages": [{"role": "user", "content": "Is <video> a tag?"}], "videos": []}, "ok"),
        ({"messages": QA, "video": "a.mp4", "images": ["a.jpg"]}, "ok"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "no_conversation"),
        ({"conversations": TALK[:1], "chosen": TALK[1], "rejected": TALK[1]}, "no_conversation"),
        ({"history": [1], "query": "a", "response": "b"}, "json_invalid"),
        ({"conversations": "[1"}, "json_invalid"),
    ],
)
def test_what_is_no_conversation_with_images(qas, images, odd, status):
    assert read(qas([item(), odd]), images=images).statuses == ["ok", status]


@given(
    st.dictionaries(st.sampled_from([*form_names([*LISTS, *PAIRS]), "history", "chosen"]), values)
)
def test_any_form_gives_turns_or_a_reason(fields):
    dialogue = Dialogue([])
    try:
        dialogue.read(fields)
    except SampleError as error:
        assert "\n" not in str(error)
        return
    assert dialogue.turns and dialogue.fields
    assert len(dialogue.named) <= sum(turn.text.count("<image>") for turn in dialogue.turns)


CAPTION = [TALK[0], {"from": "gpt", "value": "A cat on a mat."}]


def test_captions_in_turns(tmp_path, qas, images):
    """LLaVA-Pretrain: who scores captions reads an image and the answer."""
    items = [item(number, image="a.jpg", conversations=CAPTION) for number in range(2)]
    found = read(qas(items), images=images, kinds=("caption", "document"))
    assert found.keys == ["i0", "i1"] and found.samples[0].kind == "caption"
    assert found.samples[0].parts == (Image(b"a.jpg"), Text("A cat on a mat."))
    path = qas([*items, item(2, image="a.jpg", conversations=TALK * 2)])
    assert "holds instruction samples" in request_error(path, images=images, kinds=("caption",))
    found = read(path, images=images, kinds=("caption",), layout="turn-captions")
    assert found.statuses == ["ok", "ok", "conversation_invalid"]
    assert read(path, images=images).samples[0].kind == "instruction"
    columns = {"id": ["a", "b"], "image": [JPEG, None], "conversations": [CAPTION, CAPTION]}
    found = read(write_parquet(tmp_path / "p.parquet", columns), kinds=("caption",))
    assert found.statuses == ["ok", "image_missing"]
    assert found.samples[0].parts == (Image(JPEG), Text("A cat on a mat."))


def test_instruction_tars(tmp_path):
    """Infinity-MM; LLaVA-OneVision-1.5 with a list of turns, and with named members."""
    two = [{"role": "user", "content": "<image><image>What is it?"}, QA[1]]
    named = {"texts": two, "media": "image", "name": ["1_B.JPG", "0_a.jpg"]}
    records = {
        "mm": [
            ("json", {"id": "i0", "image": "vg/mm.jpg"} | FORMS["conversations"]),
            ("jpg", JPEG),
        ],
        "list": [("jpg", JPEG), ("json", QA)],
        "named": [("0_a.jpg", image(1)), ("1_B.JPG", image(2)), ("json", named)],
        "text": [("json", {"texts": QA, "media": "text"})],
        "film": [("json", {"texts": QA, "media": "video", "name": ["0_a.mp4"]}), ("0_a.mp4", b"x")],
        "pickle": [("json", {"conversations": TALK}), ("jpgs", b"x")],
        "none": [("jpg", JPEG)],
        "odd": [("json", 5)],
    }
    members = [
        (f"{key}.{name}", data if isinstance(data, bytes) else json.dumps(data).encode())
        for key, record in records.items()
        for name, data in record
    ]
    path = write_tar(tmp_path / "a.tar", members)
    found = read(path, kinds=("instruction",))
    media = ["unsupported_media"] * 2
    assert found.statuses == ["ok"] * 4 + media + ["json_invalid"] * 2
    mm, listed, named_, text = found.samples
    assert mm.turns == listed.turns == MARKED and mm.images == listed.images == (Image(JPEG),)
    assert mm.metadata == {"id": "i0", "image_source": "vg"} and mm.kind == "instruction"
    assert named_.images == (Image(image(2)), Image(image(1)))
    assert text.images == () and text.turns == tuple(Turn(t.role, t.text) for t in text.turns)
    assert "holds instruction samples" in request_error(path, kinds=("caption",))
    assert "instruction-tar is for .tar" in request_error(
        write_json(tmp_path / "q.json", [item()]), layout="instruction-tar"
    )


def test_an_empty_file_has_no_rows(tmp_path, images):
    (tmp_path / "0.jsonl").write_bytes(b"")
    (tmp_path / "1.json").write_text("[]")
    for kinds in (("instruction",), ("caption", "document")):
        for name in ("0.jsonl", "1.json"):
            assert read(tmp_path / name, kinds=kinds) == ([], [], [], [])


def test_parsers_travel_to_worker_processes(images):
    parser = pickle.loads(pickle.dumps(InstructionParser(ReadOptions(images=images))))
    assert parser(Record("k", item(image="a.jpg"))).images == (Image(b"a.jpg"),)
