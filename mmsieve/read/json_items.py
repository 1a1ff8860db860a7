"""JSON as it is found: objects of samples, and files of items, a list or one a line, of any size.

A list is read through a window of a few megabytes that moves over the file. Its bytes are taken as
latin-1, one character a byte, so positions in it are bytes, and an item whose text is no UTF-8 is
still one item. The standard library's C scanner finds where an item ends; what it makes of the
item is dropped.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.read import MAX_BYTES, Record
from mmsieve.stores.asking import one_line

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_CHUNK = 1 << 22
_PROBE = 1 << 12
_BLANK = re.compile(r"[ \t\r\n]*")
_BOM = "\xef\xbb\xbf"
_TOKEN = len("-Infinity")
"""No token but a string and a number is longer, so only an error so near the end may be a cut."""
_AFTER = tuple(" \t\r\n,]")
_scan = json.JSONDecoder(strict=False, parse_int=float).raw_decode
"""`parse_int`: int refuses thousands of digits, and one odd item must not end the file."""


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object; raises SampleError where it isn't one."""
    if not data.strip():
        raise SampleError(Status.JSON_INVALID, "empty, not a JSON object")
    value = parse_json(data)
    if not isinstance(value, dict):
        raise SampleError(Status.JSON_INVALID, f"JSON {type(value).__name__}, not an object")
    return value


def parse_json(data: bytes) -> Any:
    """A JSON value; raises SampleError where it is none.

    Two things that common writers make and others choke on are mended: NaN and Infinity, which
    are not JSON, are read as null; half a surrogate pair (a cut emoji), which is no text and fits
    into no table, as U+FFFD.
    """
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=lambda name: None)
        if _MAYBE_SURROGATE.search(text):
            plain = json.dumps(value, ensure_ascii=False)
            if _SURROGATE.search(plain):
                value = json.loads(_SURROGATE.sub("\ufffd", plain))
    except (ValueError, RecursionError) as error:
        raise SampleError(Status.JSON_INVALID, f"invalid JSON: {one_line(error)}") from error
    return value


def is_list(file: BinaryIO, suffix: str) -> bool:
    """Whether a JSON or JSONL file's items are in a list, and not one a line."""
    sign = first_sign(file)
    return sign == "[" or (suffix == ".json" and sign != "{")


def first_sign(file: BinaryIO) -> str:
    """A file's first character behind white space: `[` for a list, `{` for lines, or nothing."""
    window = _Window(file, 0, min(_CHUNK, _PROBE))
    return window.sign(window.skip_blank(window.after_bom()))


def item_spans(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """The first byte and one past the last of each item of a file that is a JSON list.

    A byte order mark, white space anywhere and a comma after the last item are allowed. Raises
    ShardError, which names the byte, where the list breaks off or is no JSON, where an item has
    more than MAX_BYTES, and where anything follows the list: the items before were given.
    """
    window = _Window(file, 0)
    for start, stop in _items(window, _into_list(window)):
        yield window.begin + start, window.begin + stop


def line_starts(file: BinaryIO) -> Iterator[int]:
    """The first byte of each line of a file."""
    file.seek(0)
    position = 0
    last = b"\n"
    while chunk := file.read(_CHUNK):
        if last == b"\n":
            yield position
        at = 0
        while 0 < (at := chunk.find(b"\n", at) + 1) < len(chunk):
            yield position + at
        position += len(chunk)
        last = chunk[-1:]


def list_items(file: BinaryIO, begin: int, end: int | None = None) -> Iterator[bytes]:
    """The items of a list as they stand in the file, from the one at byte `begin`; 0: all.

    They end before the one at byte `end`, or with the list. Raises ShardError as `item_spans` does.
    """
    window = _Window(file, begin)
    for start, stop in _items(window, 0 if begin else _into_list(window), end):
        yield window.text[start:stop].encode("latin-1")


def line_items(file: BinaryIO, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The lines between two bytes, huge ones cut above MAX_BYTES; ShardError in a shorter file."""
    file.seek(begin)
    pieces: list[bytes] = []
    size = 0
    while end is None or begin < end:
        chunk = file.read(_CHUNK if end is None else min(_CHUNK, end - begin))
        if not chunk and end is None:
            break
        if not chunk:
            raise ShardError(f"ends at byte {begin}, expected {end}: the file has changed")
        begin += len(chunk)
        for number, piece in enumerate(chunk.split(b"\n")):
            if number > 0:
                yield b"".join(pieces)
                pieces, size = [], 0
            if size <= MAX_BYTES:
                pieces.append(piece)
                size += len(piece)
    if size > 0:
        yield b"".join(pieces)


def read_file(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | SampleError]]:
    """Number, bytes and object of each item of a JSON list or JSONL file, or why it has none.

    Empty lines are passed over, but count. Raises ShardError where the file can't be read on.
    """
    try:
        with path.open("rb") as file:
            listed = is_list(file, path.suffix.lower())
            for number, raw in enumerate(list_items(file, 0) if listed else line_items(file)):
                if raw and not raw.isspace():
                    raw = raw.removeprefix(_BOM.encode("latin-1")).strip()
                    yield number, raw, _object(raw)
    except OSError as error:
        raise ShardError(f"can't be read: {one_line(error)}") from error


def _object(raw: bytes) -> dict[str, Any] | SampleError:
    try:
        return parse_object(raw)
    except SampleError as error:
        return error


def numbered(
    items: Iterable[bytes], start: int, stop: int
) -> Iterator[tuple[int, bytes, SampleError | None]]:
    """Items with numbers, b"" for too large ones; ShardError where they don't end before `stop`."""
    number = start
    for data in items:
        problem = None
        if len(data) > MAX_BYTES:
            problem = SampleError(Status.JSON_INVALID, f"an item of more than {MAX_BYTES:,} bytes")
        yield number, b"" if problem else data, problem
        number += 1
    if number != stop:
        raise ShardError(f"item {number} follows where {stop} was expected: the file has changed")


def read_objects(
    items: Iterable[bytes],
    start: int,
    stop: int,
    stem: str,
    key_of: Callable[[Mapping[str, Any], str, int], str],
) -> Iterator[Record]:
    """Items `start` to `stop` (one past it), parsed here and not in a worker: the key is inside."""
    for number, data, problem in numbered(items, start, stop):
        fields: dict[str, Any] = {}
        try:
            fields = fields if problem else parse_object(data)
        except SampleError as error:
            problem = error
        yield Record(key_of(fields, stem, number), fields, problem)


class _Window:
    """A piece of a file that moves on as it is read; it grows while one item needs it."""

    def __init__(self, file: BinaryIO, begin: int, chunk: int | None = None) -> None:
        self.begin = begin
        """Byte of the file at which the window's text starts."""
        self.text = ""
        self._file = file
        self._chunk = chunk or _CHUNK
        file.seek(begin)
        self.read_on(0)

    def read_on(self, keep: int) -> bool:
        """Drop what is before `keep` and read on; False at the end of the file."""
        rest = self.text[keep:]
        # doubled, or a large item costs its square
        chunk = self._file.read(max(self._chunk, len(rest)))
        self.text = rest + chunk.decode("latin-1")
        self.begin += keep
        return bool(chunk)

    def after_bom(self) -> int:
        while len(self.text) < len(_BOM) and self.read_on(0):
            pass
        return len(_BOM) if self.text.startswith(_BOM) else 0

    def skip_blank(self, at: int) -> int:
        """Where the next character that is no white space stands; moves the window on for it."""
        while True:
            match = _BLANK.match(self.text, at)
            assert match is not None
            if match.end() < len(self.text):
                return match.end()
            if not self.read_on(match.end()):
                return 0
            at = 0

    def sign(self, at: int) -> str:
        return self.text[at : at + 1]

    def error(self, what: str, at: int) -> ShardError:
        return ShardError(f"{what} at byte {self.begin + at}")


def _into_list(window: _Window) -> int:
    at = window.skip_blank(window.after_bom())
    if window.sign(at) != "[":
        raise window.error("not a JSON list", at)
    return at + 1


def _items(window: _Window, at: int, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Start and stop of items from `at` on, valid in the window until the next is asked for."""
    while True:
        at = window.skip_blank(at)
        if end is not None and window.begin + at >= end:
            return
        if window.sign(at) == "]":
            break
        start, stop = _item(window, at)
        yield start, stop
        at = window.skip_blank(stop)
        sign = window.sign(at)
        if sign == "]":
            break
        if sign != ",":
            what = "no comma after an item" if sign else "cut off: the list has no end"
            raise window.error(what, at)
        at += 1
    at = window.skip_blank(at + 1)
    if at < len(window.text):
        raise window.error("text after the end of the list", at)


def _item(window: _Window, at: int) -> tuple[int, int]:
    """Start and stop of the item at `at`, with the window grown until all of it is inside."""
    while True:
        size = len(window.text)
        what = "cut off: the file ends inside the item"
        where = at
        try:
            _, stop = _scan(window.text, at)
            is_number = window.text[stop - 1] in "0123456789"  # which may go on: 1 as 1e5
            if not is_number or stop < size - _TOKEN or window.sign(stop) in _AFTER:
                return at, stop
        except JSONDecodeError as error:
            if error.pos < size and not error.msg.startswith("Unterminated string"):
                what, where = f"invalid JSON ({error.msg})", error.pos
                if where < size - _TOKEN:
                    raise window.error(what, where) from None
        except RecursionError as error:
            raise window.error("lists or objects nested too deeply in the item", at) from error
        if size - at > MAX_BYTES:
            raise window.error(f"more than {MAX_BYTES:,} bytes in the item", at)
        if not window.read_on(at):
            raise window.error(what, where - at)
        at = 0
