"""What is given as a table, and where decisions go: other kinds of files, globs, names of files."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import mmsieve
from mmsieve import RequestError
from tests.helpers.tables import rows_of, write_table


@pytest.fixture
def scores(tmp_path) -> Path:
    shards = {"x/a": rows_of("a", [1.0, 2.0]), "x/b": rows_of("b", [3.0]), "c": rows_of("c", [4.0])}
    return write_table(tmp_path / "scores", shards)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", "key,quality_score\na,1.0\nb,2.0\n"),
        ("s.tsv", "key\tquality_score\na\t1.0\nb\t2.0\n"),
        ("s.jsonl", '{"key": "a", "quality_score": 1.0}\n{"key": "b", "quality_score": 2.0}\n'),
    ],
)
def test_a_file_of_text_says_how_it_becomes_a_table(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(content)
    with pytest.raises(RequestError, match="a table is Parquet") as stopped:
        mmsieve.filter(name, top_count=1, out="keep")
    code = re.search('python -c "(.*)"', str(stopped.value))[1]
    exec(code)  # as `python -c` does, without another second to import polars
    assert mmsieve.filter("s.parquet", top_count=1, out="keep", quiet=True).kept == 1


@pytest.mark.parametrize(
    ("pattern", "rows"),
    [("*/*.parquet", 3), ("**/*.parquet", 4), ("x/a.parquet", 2), ("x/[b]*", 1)],
)
def test_a_glob_of_files_is_one_table(tmp_path, scores, pattern, rows):
    report = mmsieve.filter(scores / pattern, min_score=2, out=tmp_path / "keep", quiet=True)
    assert report.rows == rows
    if pattern == "**/*.parquet":
        whole = mmsieve.filter(scores, min_score=2, out=tmp_path / "whole", quiet=True)
        assert report.kept == whole.kept
        names = {
            file.relative_to(tmp_path / "keep") for file in (tmp_path / "keep").rglob("*.parquet")
        }
        assert names == {Path("x/a.parquet"), Path("x/b.parquet"), Path("c.parquet")}
        assert pq.read_table(tmp_path / "keep/c.parquet").equals(
            pq.read_table(tmp_path / "whole/c.parquet")
        )


@pytest.mark.parametrize("pattern", ["*.parqet", "nowhere/*.parquet"])
def test_a_glob_that_matches_nothing(tmp_path, scores, pattern):
    with pytest.raises(RequestError, match="holds no Parquet file"):
        mmsieve.filter(scores / pattern, min_score=2, out=tmp_path / "keep")


def test_a_glob_that_the_shell_has_laid_out_is_named(tmp_path, scores):
    files = [scores / "x/a.parquet", scores / "x/b.parquet"]
    with pytest.raises(RequestError, match="look like files of one: give their folder"):
        mmsieve.filter(files, min_score=2, out=tmp_path / "keep")


@pytest.mark.parametrize("name", ["keep.csv", "keep.TSV"])
def test_decisions_are_no_csv(tmp_path, scores, name):
    with pytest.raises(
        RequestError, match="decisions are Parquet: name a folder, or a file ending"
    ):
        mmsieve.filter(scores, min_score=2, out=tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["keep.json", "keep.npy", "scores.parquet"])
def test_a_new_folder_is_not_called_as_a_file(tmp_path, name):
    with pytest.raises(RequestError, match="is called as a file, and would be a folder"):
        mmsieve.score(tmp_path, model="rules", out=tmp_path / name)
