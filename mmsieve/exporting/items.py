"""Items of JSON, JSONL, CSV, TSV, Parquet and Arrow files, found by their place and written as they
came.

Never by a key: ids repeat in the files of the field.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmsieve.exporting.captions import ORIGINAL, SCORE, CaptionEdit
from mmsieve.exporting.rows import ARROW, PARQUET, ItemsOf, no_such_item, opened, write_rows
from mmsieve.outputs import write_atomically
from mmsieve.read.csv_items import CSV, format_row, parse_row, raw_rows
from mmsieve.read.json_items import is_list, line_items, list_items, parse_object
from mmsieve.sources import split_name, suffix_of

JSON, LINES = ".json", ".jsonl"
ITEM_FILES = (JSON, LINES, PARQUET)
"""Of instruction data."""
ALL_ITEM_FILES = (*ITEM_FILES, ARROW, *CSV)


def form_of(path: Path) -> str:
    """The suffix that says a file's form: of a compressed one that of its content."""
    return suffix_of(str(path))


def plain_name(path: Path) -> str:
    """The name of a file's items once they are written: a compressed file's without `.gz`."""
    return split_name(str(path))[0] + form_of(path)


def write_items(out: Path, parts: Sequence[ItemsOf], edit: CaptionEdit | None = None) -> None:
    """Write the items at some places of some files, in the form that the suffix of `out` says.

    JSON items and rows of CSV keep their bytes, rows of Parquet their types; an item whose caption
    is another one is written anew. Rows come from files of the same columns, CSV from one file.
    Raises RequestError where a file can't be read, or has no such place any more.
    """

    def write(temporary: Path) -> None:
        if out.suffix in (PARQUET, ARROW):
            write_rows(temporary, parts, edit, as_arrow=out.suffix == ARROW)
        elif out.suffix in CSV:
            _write_csv(temporary, parts[0], edit)
        else:
            _write_json(temporary, parts, edit, as_lines=out.suffix == LINES)

    write_atomically(out, write)


def _write_json(
    out: Path, parts: Sequence[ItemsOf], edit: CaptionEdit | None, as_lines: bool
) -> None:
    """Items of JSON lists or lines, as a list or as lines."""
    with out.open("wb") as file:
        file.write(b"" if as_lines else b"[")
        for number, (raw, is_line) in enumerate(_raw_chosen(parts, edit)):
            if as_lines:
                # no string holds a raw line break, so that those are white space
                file.write(raw if is_line else b" ".join(raw.split(b"\n")))
                file.write(b"\n")
            else:
                file.write(b",\n" if number else b"\n")
                file.write(raw)
        file.write(b"" if as_lines else b"\n]\n")


def _raw_chosen(parts: Sequence[ItemsOf], edit: CaptionEdit | None) -> Iterator[tuple[bytes, bool]]:
    """The bytes of chosen items, and whether they are a line of their file."""
    for part in parts:
        with opened(part.path) as file:
            is_line = not is_list(file, part.suffix)
            items = line_items(file) if is_line else list_items(file, 0)
            for place, raw in _at_places(items, part):
                item = raw.removeprefix(b"\xef\xbb\xbf").strip()
                yield (item if edit is None else _edited(item, place, edit)), is_line


def _at_places(items: Iterator[bytes], part: ItemsOf) -> Iterator[tuple[int, bytes]]:
    left = iter(part.places.tolist())
    wanted = next(left, None)
    for place, raw in enumerate(items):
        if wanted is None:
            return
        if place == wanted:
            yield place, raw
            wanted = next(left, None)
    if wanted is not None:
        raise no_such_item(wanted)


def _edited(item: bytes, place: int, edit: CaptionEdit) -> bytes:
    """An item with its final caption, if it has another."""
    if place not in edit.changes:
        return item
    fields = parse_object(item)
    fields |= edit.fields(place, fields)
    return json.dumps(fields, ensure_ascii=False).encode()


def _write_csv(out: Path, part: ItemsOf, edit: CaptionEdit | None) -> None:
    """Rows below their line of names; with an edit, below one that has those of it, too."""
    with opened(part.path) as file, out.open("wb") as made:
        found = raw_rows(file, part.suffix)
        head = next(found, b"")
        names = parse_row(head, part.suffix)
        added = [name for name in (ORIGINAL, SCORE) if edit and name not in names]
        made.write(format_row([*names, *added], part.suffix) if added else _line(head))
        for place, raw in _at_places(found, part):
            if edit is None:
                made.write(_line(raw))
                continue
            item = dict(zip(names, parse_row(raw, part.suffix), strict=False))
            item |= edit.fields(place, item)
            values = [item.get(name, "") for name in (*names, *added)]
            made.write(format_row(values, part.suffix))


def _line(raw: bytes) -> bytes:
    return raw if raw.endswith(b"\n") or not raw else raw + b"\n"
