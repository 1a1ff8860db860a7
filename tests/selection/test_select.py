"""Select: budgets, reasons, lists of keys, subsets, wrong requests, through the command."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsieve import tables
from mmsieve.cli import main
from mmsieve.errors import RequestError
from tests.helpers.selections import choose, ratings_of, write_ratings
from tests.helpers.tables import kept_keys, read_decisions

A, B = ["yes/no"], ["comparison"]
WIDE = "".join(chr(ord(letter) + 0xFEE0) for letter in "YES/NO")
"""In full-width characters."""


def rated(*ratings: int | None, **columns: list[Any]) -> dict[str, Any]:
    """Columns of samples 0, 1, ... with ratings for ocr; others by name."""
    rows = [
        {"key": n, "styles": A, "image_source": "coco", "ocr": rating}
        | {name: values[n] for name, values in columns.items()}
        for n, rating in enumerate(ratings)
    ]
    types = {"ocr": pa.int8()} | {
        name: pa.int32() for name in columns if name in ("data", "num_tokens")
    }
    return ratings_of(rows, **types)


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """Ten samples, the last rated highest, in two shards."""
    return write_ratings(tmp_path / "ratings", rated(0, 1, 1, 2, 2, 3, 3, 4, 4, 5), cuts=[4])


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["select", *map(str, words), "--quiet"])
    said = capsys.readouterr()
    return end.value.code, said.out, said.err  # type: ignore[return-value]


def test_the_command(ten: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, wrong = run(capsys, ten, "--budget", "0.3", "--out", tmp_path / "keep")
    assert (code, wrong) == (0, "")
    assert "ocr              2.500           9         4.333           3" in said
    assert "yes/no                          10                         3" in said
    assert "not kept: 1 no_rating, 6 not_selected" in said
    assert said.splitlines()[-1].startswith("3 of 10 rows kept in ")
    files = tables.table_files(tmp_path / "keep")
    assert list(files) == ["s000", "s001"]
    decisions = read_decisions(tmp_path / "keep")
    assert decisions["key"].to_list() == [str(n) for n in range(10)]
    assert decisions["keep"].to_list() == [False] * 7 + [True] * 3
    assert decisions["score"].to_list() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert decisions.schema["score"] == pl.Float32
    header = tables.read_header(files["s001"])
    assert header is not None and header.fingerprint["budget"] == "0.3"
    assert header.notes == {"about": "ratings", "kept": "3", "budget": "3"}


def test_a_budget_with_a_dot_is_a_fraction_of_all_rows(tmp_path: Path) -> None:
    status = ["ok", "json_invalid"] * 5
    ratings = rated(*[3] * 10)
    ratings["status"] = status
    path = write_ratings(tmp_path / "r", ratings)
    for budget, kept in ((0.5, 5), (0.29, 2), (1.0, 5), (1, 1), (7, 5)):
        report = choose(path, tmp_path / "keep", budget=budget, overwrite=True)
        assert report.kept == kept
    assert "the budget of 7 can't be met: 2 missing" in report.summary()
    assert report.reasons == {"json_invalid": 5}


def test_rare_groups_come_first_and_names_break_ties(tmp_path: Path) -> None:
    ratings = rated(5, 5, 1, 1, styles=[A, A, B, ["coordinate"]])
    path = write_ratings(tmp_path / "r", ratings)
    for budget, keys in ((1, {"2"}), (2, {"2", "3"}), (3, {"0", "2", "3"})):
        choose(path, tmp_path / "keep", budget=budget, overwrite=True)
        assert kept_keys(tmp_path / "keep") == keys


def test_why_rows_are_not_kept(tmp_path: Path) -> None:
    ratings = rated(4, 4, None, 4, 3, styles=[A, None, A, [], A])
    path = write_ratings(tmp_path / "r", ratings)
    (tmp_path / "no.txt").write_text("0\nabsent\n")
    report = choose(path, tmp_path / "keep", budget=1.0, exclude=tmp_path / "no.txt")
    reasons = read_decisions(tmp_path / "keep")["reason"].to_list()
    assert reasons == ["excluded", "no_style", "no_rating", "no_style", None]
    assert "1 of its keys aren't there" in report.summary()


def test_required_samples_come_first(ten: Path, tmp_path: Path) -> None:
    (tmp_path / "yes.txt").write_text("0\n2\n")
    choose(ten, tmp_path / "keep", budget=3, require=tmp_path / "yes.txt")
    assert kept_keys(tmp_path / "keep") == {"0", "2", "9"}
    (tmp_path / "yes.txt").write_text("0\n2\nabsent\n")
    with pytest.raises(RequestError, match=r"1 of its keys aren't there \('absent'\)"):
        choose(ten, tmp_path / "no", budget=3, require=tmp_path / "yes.txt")
    (tmp_path / "yes.txt").write_text("0\n2\n")
    with pytest.raises(RequestError, match="cost 2, more than the budget of 1"):
        choose(ten, tmp_path / "no", budget=1, require=tmp_path / "yes.txt")
    with pytest.raises(RequestError, match="2 of its samples can't be chosen"):
        choose(
            ten,
            tmp_path / "no",
            budget=3,
            require=tmp_path / "yes.txt",
            exclude=tmp_path / "yes.txt",
        )


def test_token_budgets(tmp_path: Path) -> None:
    ratings = rated(5, 5, 4, 3, 2, num_tokens=[900, 40, 50, 70, None])
    path = write_ratings(tmp_path / "r", ratings)
    report = choose(path, tmp_path / "keep", budget_tokens=100)
    assert kept_keys(tmp_path / "keep") == {"1", "2"}
    assert "90 of 100 tokens" in report.summary()
    assert "1 sample without num_tokens" in report.summary()


def test_sources_can_have_quotas(tmp_path: Path) -> None:
    sources = ["a=b", "a=b", "a=b", "c", "c"]
    path = write_ratings(tmp_path / "r", rated(5, 5, 5, 1, 1, image_source=sources))
    choose(path, tmp_path / "one", budget=4, source_quota=("a=b=1",))
    assert kept_keys(tmp_path / "one") == {"0", "3", "4"}
    choose(path, tmp_path / "half", budget=4, source_quota=("a=b=0.5",))
    assert kept_keys(tmp_path / "half") == {"0", "1", "3", "4"}


def test_strategies_to_compare_with(tmp_path: Path) -> None:
    sources = ["a"] * 8 + ["b"] * 2
    ratings = rated(*range(10), data=[3] * 9 + [None], image_source=sources)
    path = write_ratings(tmp_path / "r", ratings)
    choose(path, tmp_path / "top", budget=3, strategy="top-mean")
    assert kept_keys(tmp_path / "top") == {"9", "8", "7"}
    choose(path, tmp_path / "per", budget=6, strategy="per-source")
    assert {"8", "9"} < kept_keys(tmp_path / "per")
    found = set()
    for seed in range(8):
        choose(path, tmp_path / "any", budget=3, strategy="random", seed=seed, overwrite=True)
        found.add(frozenset(kept_keys(tmp_path / "any")))
    assert len(found) > 4
    assert read_decisions(tmp_path / "any")["reason"].value_counts().height == 2


def test_random_choices_never_change(ten: Path, tmp_path: Path) -> None:
    """Recorded: the same in every version and on every machine."""
    choose(ten, tmp_path / "any", budget=4, strategy="random", seed=7)
    assert kept_keys(tmp_path / "any") == {"0", "6", "7", "9"}


def test_spellings_of_styles(tmp_path: Path) -> None:
    styles = [["yes/no"], ["Yes/No "], [WIDE], ["counting"]]
    path = write_ratings(tmp_path / "r", rated(1, 5, 4, 3, styles=styles))
    exact = choose(path, tmp_path / "exact", budget=2)
    assert set(exact.styles) == {"yes/no", "Yes/No", WIDE, "counting"}
    strict = choose(path, tmp_path / "strict", budget=2, styles="strict")
    assert set(strict.styles) == {"yes/no"}
    assert kept_keys(tmp_path / "strict") == {"1", "2"}


def test_any_numeric_columns_can_be_named(tmp_path: Path) -> None:
    """Floats that differ in their last bits only are told apart."""
    rows = {"key": ["a", "b"], "mine": [1.0, 1.0 + 2**-50], "styles": [A, A]}
    pq.write_table(pa.table(rows | {"image_source": ["x", "x"]}), tmp_path / "r.parquet")
    choose(tmp_path / "r.parquet", tmp_path / "keep.parquet", budget=1, capabilities="mine")
    assert kept_keys(tmp_path / "keep.parquet") == {"b"}
    assert read_decisions(tmp_path / "keep.parquet")["shard"].to_list() == ["r", "r"]


def test_a_dry_run_writes_nothing(ten: Path, tmp_path: Path) -> None:
    report = choose(ten, tmp_path / "keep", budget=3, dry_run=True)
    assert report.kept == 3 and "would keep 3 of " in report.summary()
    assert [path.name for path in tmp_path.iterdir()] == ["ratings"]


def test_a_quota_where_no_row_has_a_source_says_how_to_get_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_ratings(tmp_path / "ratings", rated(1, 2, image_source=[None, None]))
    words = ("--budget", "1", "--source-quota", "charts=0.2", "--out", tmp_path / "keep")
    code, _, wrong = run(capsys, path, *words)
    assert code == 2 and wrong.count("\n") == 1
    assert "charts: no row has an image_source: rate again, and say where" in wrong


def test_decisions_are_replaced_only_when_asked(ten: Path, tmp_path: Path) -> None:
    choose(ten, tmp_path / "keep", budget=3)
    assert "made again" in choose(ten, tmp_path / "keep", budget=3).summary()
    with pytest.raises(RequestError, match="another budget; choose another --out, or --overwrite"):
        choose(ten, tmp_path / "keep", budget=4)
    assert choose(ten, tmp_path / "keep", budget=4, overwrite=True).kept == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one of --budget N"),
        (("--budget", "3", "--budget-tokens", "9"), "one of --budget N"),
        (("--budget", "1.5"), "a fraction must be above 0 and at most 1.0"),
        (("--budget", "0.0"), "a fraction must be above 0"),
        (("--budget", "nan.0"), "budget"),
        (("--budget", "0"), "at least 1"),
        (("--budget", "some"), "some"),
        (("--budget-tokens", "9"), "no column num_tokens"),
        (("--budget", "3", "--capabilities", "nope"), "no column nope"),
        (("--budget", "3", "--capabilities", "ocr,ocr"), "names ocr twice"),
        (("--budget", "3", "--capabilities", "ocr,"), "an empty name"),
        (("--budget", "3", "--capabilities", "key"), "ratings are integers"),
        (("--budget", "3", "--weights", "stem=2"), "'stem' is no capability of this"),
        (("--budget", "3", "--weights", "ocr=0"), "above 0"),
        (("--budget", "3", "--weights", "ocr=x"), "above 0"),
        (("--budget", "3", "--weights", "ocr=2", "--strategy", "random"), "--strategy mmssr"),
        (("--budget", "3", "--above", "nan"), "must be a number"),
        (("--budget", "3", "--above", "5"), "no ratings above 5"),
        (("--budget", "3", "--source-quota", "coco"), "say SOURCE=N"),
        (("--budget", "3", "--source-quota", "nope=1"), "no such image source; there are coco"),
        (("--budget", "3", "--require", "absent.txt"), "can't be read as keys"),
        (("--budget", "3", "--seed", "-1"), "--seed -1"),
        (("--budget", "3", "--strategy", "best"), "best"),
        (("--budget", "3", "--subset", "s.json"), "say --data FILE too"),
        (("--budget", "3", "--data", "absent.json"), "no such file"),
    ],
)
def test_wrong_requests(
    words: tuple[str, ...],
    message: str,
    ten: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, wrong = run(capsys, ten, *words, "--out", tmp_path / "keep")
    assert code == 2 and message in wrong
    assert wrong.startswith("mmsieve: ") and wrong.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ratings"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ocr": None}, "no column of a capability"),
        ({"styles": ["a"] * 3}, "not lists of text"),
        ({"image_source": [1] * 3}, "image_source holds int64"),
        ({"key": [None] * 3}, "a row has no key"),
    ],
)
def test_wrong_tables(
    change: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {name: v for name, v in (rated(1, 2, 3) | change).items() if v is not None}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    code, _, wrong = run(capsys, tmp_path / "r.parquet", "--budget", "1", "--out", tmp_path / "k")
    assert code == 2 and message in wrong and wrong.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.parquet"]


def test_a_table_without_rows(tmp_path: Path) -> None:
    report = choose(write_ratings(tmp_path / "r", rated()), tmp_path / "keep", budget=0.3)
    assert (report.rows, report.kept) == (0, 0)


@pytest.mark.parametrize("lacks", [(), ("styles",), ("styles", "image_source")])
def test_without_styles_groups_are_sources_alone(tmp_path, lacks):
    rows = [
        {"key": f"{n}", "styles": None, "image_source": "ab"[n // 6], "ocr": 5 - n % 3}
        for n in range(9)
    ]
    columns = ratings_of(rows, ocr=pa.int8())
    table = write_ratings(tmp_path / "r", {k: v for k, v in columns.items() if k not in lacks})
    report = choose(table, tmp_path / "out", budget=4)
    assert report.kept == 4
    assert any("no row has a style: groups are image sources alone" in n for n in report.notes)
    assert [name in " ".join(report.notes) for name in lacks] == [True] * len(lacks)
    kept = read_decisions(tmp_path / "out").filter("keep")["key"].to_list()
    styled = ratings_of([row | {"styles": ["yes/no"]} for row in rows], ocr=pa.int8())
    if "image_source" in lacks:
        styled["image_source"] = [""] * len(rows)
    choose(write_ratings(tmp_path / "r2", styled), tmp_path / "out2", budget=4)
    assert kept == read_decisions(tmp_path / "out2").filter("keep")["key"].to_list()
