"""export --captions: final captions in the tars, and nothing else changed."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmsieve import ExportOptions, RequestError, export
from mmsieve.cli import main
from mmsieve.exporting.captions import CaptionChange
from mmsieve.tables import read_header
from tests.helpers.exports import decide, key_of, members, raw_members, read_wds
from tests.helpers.shards import caption, captions, image, write_parquet, write_tar
from tests.helpers.tables import write_table


def assess(folder: Path, source: Path, final: dict[str, str], **columns: Any) -> Path:
    """A table as `enhance` writes it, with these final captions."""
    texts = {key_of(n): data.decode() for n, data in members(source) if n.lower().endswith(".txt")}
    keys = list(dict.fromkeys(key_of(name) for name, _ in members(source)))
    rows = {
        "key": keys,
        "shard": [source.stem] * len(keys),
        "status": ["ok" if key in texts else "text_missing" for key in keys],
        "error": [None] * len(keys),
        "uid": [None] * len(keys),
        "caption": [texts.get(key) for key in keys],
        "final_caption": [final.get(key, texts.get(key)) for key in keys],
        "rewritten": [key in final if key in texts else None for key in keys],
        "overall_score": [2.0 if key in texts else None for key in keys],
    }
    shards = {source.stem: rows | columns}
    return write_table(folder, shards, kind="assessment", size=source.stat().st_size)


def run(source: Path, out: Path, **options: Any) -> Any:
    asked = {n: options.pop(n) for n in ("decisions", "captions") if n in options}
    return export(str(source), out=out, run=ExportOptions(quiet=True, **options), **asked)


MEMBERS = [
    *captions(3),
    ("b.jpg", image(7)),
    ("b.TXT", b"No json here."),
    ("b.seg.png", b"a mask"),
    ("c.json", b'{"uid": "c", "n": 1.50, "x": NaN}\n'),
    ("c.jpg", image(8)),
    ("c.txt", b"Json first."),
    ("d.jpg", image(9)),
    ("d.txt", b"Nothing known."),
    ("d.json", b"{}"),
    ("e.jpg", image(10)),
]
FINAL = {
    "0001": "A square, \u00e9 and \u72ac.",
    "b": "A mask.",
    "c": 'Says "{}".',
    "d": "Something.",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "in" / "a.tar", MEMBERS)


def test_rewritten_captions_take_their_place_and_the_rest_is_the_same(tmp_path, source):
    table = assess(tmp_path / "table", source, FINAL)
    report = run(source, tmp_path / "out", captions=table)
    out = tmp_path / "out" / "a.tar"
    assert (report.samples, report.failed) == (7, {})
    before, after = raw_members(source), raw_members(out)
    touched = {"0001.txt", "0001.json", "b.txt", "b.json", "c.txt", "c.json", "d.txt", "d.json"}
    assert {name for name, raw in after.items() if before.get(name) != raw} == touched
    assert {n for n in before if n not in after} == {"b.TXT"}  # its name as readers take it
    found = {sample["__key__"]: sample for sample in read_wds(out)}
    assert list(found) == [sample["__key__"] for sample in read_wds(source)]
    for key, text in FINAL.items():
        assert found[key]["txt"].decode() == text
        told = json.loads(found[key]["json"])
        original = next(d.decode() for n, d in MEMBERS if n.lower() == f"{key}.txt")
        assert (told["original_caption"], told["overall_score"]) == (original, 2.0)
    assert json.loads(found["0001"]["json"])["uid"] == "0001"
    assert found["c"]["json"].startswith(b'{"uid": "c", "n": 1.50, "x": NaN, "original_caption"')
    names = [name for name, _ in members(out)]
    order = ["b.TXT" if name == "b.txt" else name for name in names if name != "b.json"]
    assert order == [name for name, _ in MEMBERS]


def test_a_second_rewriting_keeps_the_first_original(tmp_path, source):
    run(source, tmp_path / "once", captions=assess(tmp_path / "t", source, {"0001": "Second."}))
    once = tmp_path / "once" / "a.tar"
    run(once, tmp_path / "twice", captions=assess(tmp_path / "u", once, {"0001": "Third."}))
    found = {s["__key__"]: s for s in read_wds(tmp_path / "twice" / "a.tar")}["0001"]
    assert found["txt"] == b"Third."
    told = json.loads(found["json"])
    assert told["original_caption"] == "Square number 1." and told["uid"] == "0001"


def test_with_decisions_only_kept_samples_are_there(tmp_path):
    source = write_tar(tmp_path / "in" / "a.tar", captions(6))
    table = assess(tmp_path / "table", source, {f"{n:04d}": f"New {n}." for n in range(6)})
    keep = decide(source, out=tmp_path / "keep")
    report = run(source, tmp_path / "out", decisions=keep, captions=table)
    found = read_wds(tmp_path / "out" / "a.tar")
    assert report.samples == len(found) == 3
    assert all(sample["txt"] == b"New %d." % int(sample["__key__"]) for sample in found)


def test_other_captions_are_another_export(tmp_path, source):
    run(source, tmp_path / "out", captions=assess(tmp_path / "t", source, FINAL))
    again = run(source, tmp_path / "out", captions=tmp_path / "t")
    assert "resumed: 1 shard" in again.summary()
    other = assess(tmp_path / "u", source, {"0001": "Other."})
    with pytest.raises(RequestError, match="another --out, or --overwrite"):
        run(source, tmp_path / "out", captions=other)
    assert run(source, tmp_path / "out", captions=other, overwrite=True).samples == 7


def test_repacked(tmp_path, source):
    table = assess(tmp_path / "t", source, FINAL)
    run(source, tmp_path / "out", captions=table, shard_size=4)
    found = [s for n in (0, 1) for s in read_wds(tmp_path / "out" / f"{n:08d}.tar")]
    assert {s["__key__"]: s["txt"].decode() for s in found if s["__key__"] in FINAL} == FINAL


def test_parquet_rows_get_them_too(tmp_path):
    pictures = [{"bytes": image(n), "path": f"{n}.jpg"} for n in range(2)]
    source = write_parquet(
        tmp_path / "p.parquet", {"image": pictures, "text": ["One.", "Two."], "id": ["a", "b"]}
    )
    shard = "p-000000"
    rows = {
        "key": ["a", "b"],
        "shard": [shard] * 2,
        "status": ["ok"] * 2,
        "caption": ["One.", "Two."],
        "final_caption": ["One.", "Better."],
        "rewritten": [False, True],
        "overall_score": [9.0, 3.0],
    }
    table = write_table(
        tmp_path / "t", {shard: rows}, kind="assessment", size=source.stat().st_size
    )
    report = run(source, tmp_path / "out", captions=table)
    found = {s["__key__"]: s for s in read_wds(tmp_path / "out" / f"{shard}.tar")}
    assert report.failed == {}
    assert [found[key]["txt"] for key in "ab"] == [b"One.", b"Better."]
    assert json.loads(found["b"]["json"])["original_caption"] == "Two."
    assert "original_caption" not in json.loads(found["a"]["json"])
    assert found["b"]["jpg"] == pictures[1]["bytes"]


def test_requests_that_cannot_be_meant(tmp_path, source, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", str(source), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "give --decisions, --captions, or both" in capsys.readouterr().err
    with pytest.raises(RequestError, match="no table there"):
        run(source, tmp_path / "out", captions=tmp_path / "nowhere")
    scores = decide(source, out=tmp_path / "keep")
    with pytest.raises(RequestError, match="no table of enhance"):
        run(source, tmp_path / "out", captions=scores)
    other = write_tar(tmp_path / "in" / "b.tar", caption("k"))
    with pytest.raises(RequestError, match="none for 1 of 1 shards"):
        run(other, tmp_path / "out", captions=assess(tmp_path / "t", source, {}))
    with pytest.raises(RequestError, match="none for the shard b"):
        run(
            other,
            tmp_path / "x",
            captions=tmp_path / "t",
            decisions=decide(other, out=tmp_path / "k"),
        )


def test_a_source_that_has_changed_is_named(tmp_path, source):
    table = assess(tmp_path / "t", source, FINAL)
    assert read_header(table / "a.parquet").size == source.stat().st_size
    write_tar(source, MEMBERS + captions(9)[27:])
    report = run(source, tmp_path / "out", captions=table)
    assert report.failed.keys() <= {"a"}
    assert pl.read_parquet(table / "a.parquet").height == 7


def test_an_export_of_before_is_known_by_the_same_words():
    change = CaptionChange("key", "a dog", "IMG 1", 3.5)
    assert change.identity == "Change(text='a dog', original='IMG 1', score=3.5)"
