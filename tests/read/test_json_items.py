"""Items of JSON lists and JSONL files: where they stand, in whole and in broken files."""

import io
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve.errors import ShardError
from mmsieve.read import json_items
from mmsieve.read.json_items import first_sign, item_spans, line_items, list_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
LISTS = st.lists(VALUES, max_size=12)
BLANKS = st.sampled_from(["", " ", "\n", "\r\n\t", " " * 40])
CHUNKS = st.integers(1, 40)


@pytest.fixture(scope="module", autouse=True)
def restore_chunk():
    kept = json_items._CHUNK
    yield
    json_items._CHUNK = kept


def read_all(data: bytes) -> tuple[list[bytes], str | None]:
    """The items before the break, and what is said of it."""
    found: list[bytes] = []
    try:
        for start, stop in item_spans(io.BytesIO(data)):
            found.append(data[start:stop])
    except ShardError as error:
        assert "\n" not in str(error)
        return found, str(error)
    return found, None


@given(LISTS, CHUNKS, BLANKS, st.booleans(), st.sampled_from([None, 1]), st.booleans())
def test_every_item_stands_where_it_is_said_to(items, chunk, blank, plain, indent, comma):
    json_items._CHUNK = chunk
    texts = [json.dumps(item, ensure_ascii=not plain, indent=indent) for item in items]
    body = f"{blank},{blank}".join(texts) + ("," if comma and texts else "")
    data = f"{blank}[{blank}{body}{blank}]{blank}".encode("utf-8", "surrogatepass")
    expected = [text.encode("utf-8", "surrogatepass") for text in texts]
    for mark in (b"", b"\xef\xbb\xbf"):
        assert read_all(mark + data) == (expected, None)
        file = io.BytesIO(mark + data)
        assert first_sign(file) == "[" and list(list_items(file, 0)) == expected
        spans = list(item_spans(file))
        for low, high in pairwise(sorted({0, len(items) // 3, len(items) // 2, len(items)})):
            end = spans[high][0] if high < len(items) else None
            assert list(list_items(file, spans[low][0], end)) == expected[low:high]


@given(LISTS, CHUNKS, st.data())
def test_a_list_that_is_cut_gives_the_items_before_the_cut(items, chunk, data):
    json_items._CHUNK = chunk
    whole = json.dumps(items).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    found, problem = read_all(whole[:cut])
    texts = [json.dumps(item).encode() for item in items]
    spans = list(item_spans(io.BytesIO(whole)))
    # a number that ends the file may have gone on
    stops = [stop + texts[n][-1:].isdigit() for n, (_, stop) in enumerate(spans)]
    assert found == texts[: sum(stop <= cut for stop in stops)]
    assert problem is not None and "byte" in problem


@given(LISTS, LISTS, CHUNKS)
def test_a_list_that_breaks_gives_the_items_before_the_break(before, after, chunk):
    json_items._CHUNK = chunk
    head = "".join(json.dumps(item) + "," for item in before)
    tail = "".join("," + json.dumps(item) for item in after)
    found, problem = read_all(f'[{head}{{"a": 1 "b": 2}}{tail}]'.encode())
    assert found == [json.dumps(item).encode() for item in before]
    assert f"byte {1 + len(head) + 8}" in str(problem)


@pytest.mark.parametrize(
    ("data", "items", "problem"),
    [
        (b"", 0, "not a JSON list at byte 0"),
        (b" \n", 0, "not a JSON list at byte 2"),
        (b'{"a": 1}', 0, "not a JSON list at byte 0"),
        (b"\xff\xfe[\0]\0", 0, "not a JSON list at byte 0"),
        (b"[", 0, "at byte 1"),
        (b"[,]", 0, "at byte 1"),
        (b"[1,,2]", 1, "at byte 3"),
        (b"[1 2]", 1, "no comma after an item at byte 3"),
        (b"[1][2]", 1, "text after the end of the list at byte 3"),
        (b"[1]\n\0", 1, "text after the end of the list at byte 4"),
        (b'["a"', 1, "the list has no end at byte 4"),
        (b'["a", "b', 1, "the file ends inside the item at byte 6"),
        (b"[1, \xc3\xa9]", 1, "at byte 4"),
        (b'["a", ' + b"[" * 100_000, 1, "nested too deeply in the item at byte 6"),
    ],
)
def test_what_is_wrong_is_said_with_its_byte(data, items, problem):
    found, said = read_all(data)
    assert len(found) == items and problem in str(said)


def test_odd_items_are_still_items():
    odd = [b'"\xff\xfe"', b'"\x00\n"', b"9" * 5000, b"NaN", b"-Infinity", b'{"a":1,"a":2}']
    assert read_all(b"[" + b",".join(odd) + b"]") == (odd, None)


def test_an_item_larger_than_the_bound_ends_the_list(monkeypatch):
    monkeypatch.setattr(json_items, "MAX_BYTES", 1000)
    json_items._CHUNK = 16
    small, large = b'"' + b"a" * 900 + b'"', b'["' + b"b" * 5000 + b'"]'
    found, problem = read_all(b"[" + small + b"," + large + b"," + small + b"]")
    assert found == [small] and problem == "more than 1,000 bytes in the item at byte 904"


class Counted(io.BytesIO):
    """A file that keeps how much was read of it."""

    total = 0

    def read(self, size=-1, /):
        data = super().read(size)
        self.total += len(data)
        return data


def test_a_range_is_read_without_the_rest_of_the_file():
    json_items._CHUNK = 64
    file = Counted(b"[" + b",".join(b"%06d" % n for n in range(10**6)) + b"]")
    begin = 1 + 7 * 500_000
    items = list(list_items(file, begin, begin + 7 * 100))
    assert items == [b"%06d" % n for n in range(500_000, 500_100)] and file.total < 2000


def test_an_item_beyond_the_range_is_not_looked_at():
    data = b"[1,2,!"
    assert list(list_items(io.BytesIO(data), 1, 5)) == [b"1", b"2"]


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")), max_size=8), CHUNKS)
def test_lines(lines, chunk):
    json_items._CHUNK = chunk
    data = b"".join(line + b"\n" for line in lines)
    assert list(line_items(io.BytesIO(data))) == lines
    assert list(line_items(io.BytesIO(b"{}\n" + data), 3, 3 + len(data))) == lines
    assert list(line_items(io.BytesIO(b"{}\n" + data + b"{}"))) == [b"{}", *lines, b"{}"]


def test_lines_of_a_file_that_shrank():
    with pytest.raises(ShardError, match="ends at byte 4, expected 9"):
        list(line_items(io.BytesIO(b"1\n2\n"), 0, 9))
