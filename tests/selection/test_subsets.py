"""Subsets: the chosen items come out, by their place, in the form in which they came."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.cli import main
from mmsieve.errors import RequestError
from tests.helpers.selections import choose, ratings_of, write_ratings
from tests.helpers.tables import read_decisions


def items(count: int, ids: int) -> list[str]:
    """Items as text, with odd spacing and escapes; so many different ids."""
    return [f'{{"id": "x{n % ids}",  "t": "\\u00e9 \u00e9 {n}"}}' for n in range(count)]


def write(path: Path, raw: list[str]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{item}\n" for item in raw))
    else:
        path.write_text("[ " + " ,\n".join(raw) + "]\n")
    return path


def rate(folder: Path, data: Path, scores: list[int], ids: int, **more: Any) -> Path:
    """A table of a file whose ids repeat."""
    rows = [
        {"key": f"x{n % ids}", "styles": ["yes/no"], "image_source": "coco", "ocr": score}
        for n, score in enumerate(scores)
    ]
    return write_ratings(
        folder, ratings_of(rows, ocr=pa.int8()) | more, cuts=[len(scores) // 2], data=data
    )


def chosen_places(out: Path) -> list[int]:
    return sorted(read_decisions(out).filter("keep")["place"].to_list())


@given(
    scores=st.lists(st.integers(1, 5), min_size=2, max_size=30),
    ids=st.integers(1, 5),
    kinds=st.tuples(st.sampled_from(["json", "jsonl"]), st.sampled_from(["json", "jsonl"])),
)
@settings(max_examples=60)
def test_repeated_ids_never_bring_another_item(tmp_path_factory, scores, ids, kinds):
    folder = tmp_path_factory.mktemp("subset")
    raw = items(len(scores), ids)
    data = write(folder / f"data.{kinds[0]}", raw)
    table = rate(folder / "ratings", data, scores, ids)
    out = folder / f"out.{kinds[1]}"
    choose(table, folder / "keep", budget=len(scores) // 2 or 1, data=data, subset=out)
    places = chosen_places(folder / "keep")
    text = out.read_text()
    if kinds[1] == "jsonl":
        assert text.splitlines() == [raw[place] for place in places]
    else:
        assert text == "[" + ",".join(f"\n{raw[place]}" for place in places) + "\n]\n"


def test_broken_and_empty_lines_are_never_chosen_and_stop_nothing(tmp_path):
    lines = ["\ufeff{}", "", '{"id": "x0"}', "{broken", "null", '{"id": "x1"}']
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines) + "\n")
    status = ["json_invalid", "json_invalid", "ok", "json_invalid", "json_invalid", "ok"]
    table = rate(tmp_path / "r", data, [1, 1, 2, 1, 1, 3], 6, status=status)
    choose(table, tmp_path / "keep", budget=2, data=data, subset=tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().splitlines() == [lines[2], lines[5]]


def test_several_files_give_a_file_each_or_one_for_all(tmp_path):
    one = write(tmp_path / "one.json", items(6, 2))
    two = write(tmp_path / "two.jsonl", items(4, 2))
    table = rate(tmp_path / "r", one, [5, 0, 0, 0, 0, 4], 2)
    rate(tmp_path / "r", two, [0, 3, 0, 0], 2)
    choose(table, tmp_path / "keep", budget=3, data=[one, two], subset=tmp_path / "all.jsonl")
    wanted = [items(6, 2)[0], items(6, 2)[5], items(4, 2)[1]]
    assert (tmp_path / "all.jsonl").read_text().splitlines() == wanted
    choose(table, tmp_path / "k2", budget=3, data=[one, two], subset=tmp_path / "each")
    assert json.loads((tmp_path / "each/one.json").read_text()) == [*map(json.loads, wanted[:2])]
    assert (tmp_path / "each/two.jsonl").read_text() == wanted[2] + "\n"
    report = choose(table, tmp_path / "k3", budget=2, data=[one, two], subset=tmp_path / "e")
    assert f"none of {two} are chosen" in report.summary()
    report = choose(table, tmp_path / "k4", budget=3, data=[one], subset=tmp_path / "s.json")
    assert "1 of 3 chosen samples aren't in --data" in report.summary()


def test_parquet_comes_out_as_parquet(tmp_path):
    pictures = [{"bytes": random.Random(n).randbytes(9), "path": f"{n}.jpg"} for n in range(8)]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
            ("score", pa.int16()),
        ],
        metadata={"huggingface": "{}"},
    )
    rows = {"id": ["x"] * 8, "images": [[one] for one in pictures], "score": list(range(8))}
    data = tmp_path / "data.parquet"
    pq.write_table(pa.table(rows, schema), data, row_group_size=3)
    table = rate(tmp_path / "r", data, [0, 5, 0, 4, 0, 0, 0, 3], 1)
    choose(table, tmp_path / "keep", budget=3, data=data, subset=tmp_path / "out.parquet")
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.schema.equals(pq.read_schema(data), check_metadata=True)
    assert made.to_pylist() == pq.read_table(data).take([1, 3, 7]).to_pylist()


def test_what_was_not_rated_is_refused_by_name(tmp_path):
    one = write(tmp_path / "one.json", items(4, 4))
    other = write(tmp_path / "other.json", items(5, 5))
    table = rate(tmp_path / "r", one, [1, 2, 3, 4], 4)
    with pytest.raises(RequestError, match=f"{other}: its items were not rated"):
        choose(table, tmp_path / "k", budget=2, data=[one, other], subset=tmp_path / "e")
    moved = one.rename(tmp_path / "moved.json")
    choose(table, tmp_path / "k", budget=2, data=moved, subset=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())[0]["t"].endswith("2")
    moved.write_text(moved.read_text().replace("0", "7"))
    with pytest.raises(RequestError, match="its items were not rated"):
        choose(table, tmp_path / "k5", budget=2, data=moved, subset=tmp_path / "out5.json")


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ("same.json", "is the file of --data"),
        ("there.json", "exists: choose another name, or --overwrite"),
        ("out.parquet", "Parquet comes out as Parquet, JSON as .json or .jsonl"),
        (f"{'long' * 70}.json", ": a name of more than 255 bytes"),
        ("nosuch://bucket/x.json", "only local or mounted folders"),
        ("same.json/x", "same.json is a file, not a folder"),
    ],
)
def test_wrong_requests_stop_in_one_line(tmp_path, capsys, subset, message):
    data = write(tmp_path / "same.json", items(4, 4))
    table = rate(tmp_path / "r", data, [1, 2, 3, 4], 4)
    (tmp_path / "there.json").write_text("mine")
    words = ["select", table, "--budget", 2, "--out", tmp_path / "k", "--data", data]
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--subset", str(tmp_path / subset)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("mmsieve: --subset ") and message in said
    assert not (tmp_path / "k").exists()


def test_rate_select_and_subset_on_ids_that_repeat(tmp_path):
    """The whole way over the command line, the ids as in LLaVA's mix."""
    rows = [
        {
            "id": f"{n % 3}",
            "conversations": [
                {"from": "human", "value": f"Say {n}."},
                {"from": "gpt", "value": f"{n}."},
            ],
        }
        for n in range(12)
    ]
    data = tmp_path / "mix.json"
    data.write_text(json.dumps(rows))
    run = ["rate", data, "--model", "mmssr-tiny-scorer", "--styler", "mmssr-tiny-styler"]
    pick = ["select", tmp_path / "r", "--budget", 5, "--above", -1, "--strategy", "random"]
    for words in (
        [*run, "--out", tmp_path / "r", "--workers", 0],
        [*pick, "--out", tmp_path / "k", "--data", data, "--subset", tmp_path / "s.json"],
    ):
        with pytest.raises(SystemExit) as end:
            main([*map(str, words), "--quiet"])
        assert end.value.code == 0
    assert pl.read_parquet(tmp_path / "r/*.parquet")["place"].to_list() == list(range(12))
    wanted = [rows[place] for place in chosen_places(tmp_path / "k")]
    assert json.loads((tmp_path / "s.json").read_text()) == wanted
