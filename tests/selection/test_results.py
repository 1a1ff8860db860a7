"""Select from the published code's result files: odd scores, styles and lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsieve.cli import main
from mmsieve.errors import RequestError
from mmsieve.selection.results import read_scores, read_texts
from tests.helpers.selections import choose, write_results
from tests.helpers.tables import kept_keys, read_decisions


def items(*keys: Any, **fields: Any) -> list[dict[str, Any]]:
    return [{"idx": key, "image_source": "coco"} | fields for key in keys]


def pick(results: Path, out: Path, **options: Any) -> Any:
    return choose(results, out, data=results.parent / "qas.json", **options)


ODD = [" 3\n", "05", "+2", "1_0", True, 2.9, "-1", 7, "\u0663"]
NONE = ["4.0", "3/5", "", "four", None, [3], {"a": 1}, "9" * 5000, float("nan"), 10**30]


def test_scores_are_what_int_makes_of_them(tmp_path: Path) -> None:
    path = tmp_path / "ocr.jsonl"
    lines = [{"idx": n, "pred_response": value} for n, value in enumerate([*ODD, *NONE])]
    path.write_text("\n".join(map(json.dumps, lines)))
    keys, scores = read_scores(path)
    assert keys.to_list() == list(range(len(lines)))
    assert scores.to_list() == [3, 5, 2, 10, 1, 2, -1, 7, 3] + [None] * len(NONE)


@given(st.lists(st.tuples(st.integers(-5, 10**6), st.text(max_size=6)), max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_ways_of_reading_lines_agree(tmp_path: Path, lines: list[tuple[int, str]]) -> None:
    """A line without the usual spaces, or with more fields, is parsed by itself."""
    usual = [{"idx": key, "pred_response": text} for key, text in lines]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in usual))
    odd = [json.dumps({"more": 1} | line, separators=(",", ":")) for line in usual]
    (tmp_path / "b.jsonl").write_text("\n".join(odd))
    for read in (read_scores, read_texts):
        a, b = (read(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
        assert a[0].equals(b[0]) and a[1].equals(b[1])
    assert read_texts(tmp_path / "a.jsonl")[1].to_list() == [text for _, text in lines]


def test_what_is_odd_is_counted_and_named(tmp_path: Path) -> None:
    scores = [(0, "N/A"), (1, "7"), (2, "3"), (9, "5")]
    styles = [(0, "yes/no"), (1, "yes/no"), (2, None)]
    results = write_results(tmp_path, items(0, 1, 2, 3), {"ocr": scores, "style": styles})
    said = pick(results, tmp_path / "keep", budget=2).summary()
    assert "ocr.jsonl: 1 score can't be read: no rating" in said
    assert "ocr.jsonl: 1 score outside of 0-5: used as is" in said
    assert "ocr.jsonl: 1 of its lines are about no item of --data: left out" in said
    assert "style.jsonl: no style in 1 response: no text" in said
    decisions = read_decisions(tmp_path / "keep")
    assert decisions["reason"].to_list() == ["no_rating", None, "no_style", "no_rating"]
    assert decisions["score"].to_list() == [None, 7, 3, None]
    assert decisions["shard"].to_list() == ["qas"] * 4


def test_ties_are_broken_by_the_order_of_the_files(tmp_path: Path) -> None:
    """The first file by name decides, then what the next one adds; not the question file."""
    keys = [0, 1, 2, 3]
    files = {
        "ocr": [(key, "3") for key in (1, 0, 3, 2)],
        "data": [(key, "3") for key in (3, 2)],
        "style": [(key, "yes/no") for key in keys],
    }
    results = write_results(tmp_path, items(*keys), files)
    for budget, chosen in ((1, "3"), (2, "32"), (3, "321"), (4, "3210")):
        pick(results, tmp_path / "keep", budget=budget, capabilities="ocr", overwrite=True)
        assert kept_keys(tmp_path / "keep") == set(chosen)


def test_styles_are_split_trimmed_and_count_once(tmp_path: Path) -> None:
    texts = ["a, b ,a", "", "b,", "Yes/No\uff0c comparison"]
    files = {"ocr": [(n, "3") for n in range(4)], "style": list(enumerate(texts))}
    results = write_results(tmp_path, items(*range(4)), files)
    report = pick(results, tmp_path / "keep", budget=1)
    found = {name: held.pool for name, held in report.styles.items()}
    assert found == {"a": 1, "b": 2, "": 2, texts[3]: 1}
    strict = pick(results, tmp_path / "strict", budget=1, styles="strict")
    assert {n: held.pool for n, held in strict.styles.items()} == {"yes/no": 1, "comparison": 1}


def test_keys_can_be_texts(tmp_path: Path) -> None:
    """5 and "5" are the same idx, "05" is another."""
    files = {"ocr": [("5", "3"), ("05", "4"), ("x", "5")], "style": [(k, "a") for k in (5, "x")]}
    results = write_results(tmp_path, items(5, "05", "x"), files)
    pick(results, tmp_path / "keep", budget=3)
    assert kept_keys(tmp_path / "keep") == {"5", "x"}


def test_sources_as_items_have_them(tmp_path: Path) -> None:
    asked = [
        {"idx": 0, "image_source": "a"},
        {"idx": 1, "data_source": "b"},
        {"idx": 2, "image": "c/1.jpg"},
        {"idx": 3},
    ]
    files = {"ocr": [(n, "3") for n in range(4)], "style": [(n, "s") for n in range(4)]}
    results = write_results(tmp_path, asked, files)
    report = pick(results, tmp_path / "keep", budget=2, source_quota=("c=0",))
    assert kept_keys(tmp_path / "keep") == {"0", "3"}, "s+ and s+a come before s+b"
    assert "1 item without an image source" in report.summary()


def test_the_subset_is_written_by_the_place_of_items(tmp_path: Path) -> None:
    files = {"ocr": [(n, str(n)) for n in range(6)], "style": [(n, "s") for n in range(6)]}
    results = write_results(tmp_path, items(*range(5, -1, -1)), files)
    pick(results, tmp_path / "keep", budget=2, subset=tmp_path / "out.json")
    assert [item["idx"] for item in json.loads((tmp_path / "out.json").read_text())] == [5, 4]


GOOD = {"ocr": [(0, "3"), (1, "2")], "style": [(0, "a"), (1, "a")]}


@pytest.mark.parametrize(
    ("files", "words", "message"),
    [
        ({"ocr": GOOD["ocr"]}, (), "has no style.jsonl"),
        ({"style": GOOD["style"]}, (), "no capability.jsonl; there are none"),
        (GOOD, ("--capabilities", "stem"), "no stem.jsonl; there are ocr"),
        (GOOD | {"ocr": [(0, "3"), (0, "3")]}, (), "idx 0 comes twice"),
        (GOOD | {"style": [(0, "a"), (0, "a")]}, (), "idx 0 comes twice"),
        (GOOD | {"ocr": [(None, "3")]}, (), "ocr.jsonl line 1: has no idx"),
        (GOOD, ("--budget-tokens", "5"), "one of --budget N"),
        (GOOD, ("--data", "absent.json"), "no such file"),
        (GOOD, ("--above", "5"), "no ratings above 5"),
    ],
)
def test_wrong_folders(
    files: dict[str, Any],
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = write_results(tmp_path, items(0, 1), files)
    data = () if "--data" in words else ("--data", str(tmp_path / "qas.json"))
    with pytest.raises(SystemExit) as end:
        main(["select", str(results), *data, *words, "--budget", "1", "--out", str(tmp_path / "k")])
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said
    assert said.startswith("mmsieve: ") and said.count("\n") == 1
    assert not (tmp_path / "k").exists()


def test_a_folder_needs_the_items(tmp_path: Path) -> None:
    results = write_results(tmp_path, items(0, 1), GOOD)
    with pytest.raises(RequestError, match="say --data FILE"):
        choose(results, tmp_path / "keep", budget=1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("res/ocr.jsonl", '{"idx": 0, "pred_response": "3"}\n{"idx": 1, "pre', "line 2: no JSON"),
        ("qas.json", '[{"idx": 0}, {"idx": 0}]', "the key '0' comes twice"),
        ("qas.json", '[{"idx": 0}', "cut off"),
    ],
)
def test_broken_files(name: str, text: str, message: str, tmp_path: Path) -> None:
    results = write_results(tmp_path, items(0, 1), GOOD)
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=message):
        pick(results, tmp_path / "keep", budget=1)
    assert not (tmp_path / "keep").exists()


def test_an_item_that_can_not_be_read_is_named_and_never_chosen(tmp_path: Path) -> None:
    results = write_results(tmp_path, items(0, 1), GOOD)
    (tmp_path / "qas.json").write_text('\ufeff[{"idx": 0}, 5, {"idx": 1, "n": "\\ud83d"}, null]')
    report = pick(results, tmp_path / "keep", budget=4, subset=tmp_path / "out.json")
    assert "2 items can't be read; qas-000000001: JSON int, not an object" in report.summary()
    decisions = read_decisions(tmp_path / "keep")
    assert decisions["reason"].to_list() == [None, "no_rating", None, "no_rating"]
    assert [item["idx"] for item in json.loads((tmp_path / "out.json").read_text())] == [0, 1]


def test_lines_with_a_byte_order_mark_are_written_without_it(tmp_path: Path) -> None:
    results = write_results(tmp_path, items(0, 1), GOOD)
    data = tmp_path / "qas.jsonl"
    data.write_text('\ufeff{"idx": 0}\r\n\n{"idx": 1}\n', "utf-8")
    choose(results, tmp_path / "keep", budget=2, data=data, subset=tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text("utf-8") == '[\n{"idx": 0},\n{"idx": 1}\n]\n'


@pytest.mark.parametrize(
    "name", ["optical character recognition", "Optical_Character_Recognition capability", "ocr"]
)
def test_a_result_file_may_be_named_by_its_keyword(name: str, tmp_path: Path) -> None:
    """As 1_infer.sh of the published code names them; fine-grained has a hyphen of its own."""
    scores, others = [(0, "5"), (1, "1")], [(0, "1"), (1, "4")]
    files = {name: scores, "fine-grained recognition": others, "style": [(0, "a"), (1, "a")]}
    results = write_results(tmp_path, items(0, 1), files)
    for number, (asked, kept) in enumerate(
        [("ocr", "0"), ("finegrained", "1"), (None, "1"), (name, "0")]
    ):
        out = tmp_path / f"keep-{number}"
        pick(results, out, budget=1, capabilities=asked)
        assert kept_keys(out) == {kept}


def test_two_result_files_of_one_capability_are_told_apart_by_nobody(tmp_path: Path) -> None:
    files = {name: [(0, "5")] for name in ("ocr", "optical character recognition", "style")}
    results = write_results(tmp_path, items(0), files)
    with pytest.raises(RequestError, match=r"ocr.jsonl and optical.*\.jsonl are both ocr's"):
        pick(results, tmp_path / "keep", budget=1)
