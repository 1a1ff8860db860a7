"""Ranks, ties and joins in the temporary database equal what plain Python and polars say."""

import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.errors import MmsieveError, RequestError, TerminatedError, forget_orders, order_to_end
from mmsieve.filtering import decide
from mmsieve.filtering.decide import Database
from mmsieve.filtering.ids import hash_samples
from tests.helpers.filters import cut
from tests.helpers.tables import kept_keys, read_decisions, rows_of, write_table

NUMBERS = {
    pl.Float64: st.floats(),
    pl.Float32: st.floats(width=32),
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.Int8: st.integers(-128, 127),
    pl.UInt64: st.integers(0, 2**64 - 1),
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "temporary").mkdir()
    made = Database(tmp_path / "temporary")
    yield made
    made.close()


@pytest.mark.parametrize("dtype", NUMBERS)
def test_the_highest_are_kept_ties_by_hash_then_by_place(dtype: Any) -> None:
    values = st.one_of(NUMBERS[dtype], st.sampled_from([0, 1, 2, None]))
    rows = st.lists(st.tuples(values, st.sampled_from(["x", "y", None]), st.integers(0, 3)))

    @given(rows.filter(bool), st.integers(1, 9), st.booleans())
    @settings(max_examples=20)
    def check(rows: list[tuple[Any, str | None, int]], count: int, per: bool) -> None:
        columns = {"by": [v for v, _, _ in rows], "per": [p for _, p, _ in rows]}
        types = {"by": dtype, "per": pl.String}
        frame = pl.DataFrame(
            {"key": [f"k{k}" for _, _, k in rows], **columns}, schema_overrides=types
        )
        with TemporaryDirectory() as folder:
            path, out = Path(folder) / "t.parquet", Path(folder) / "keep.parquet"
            frame.write_parquet(path)
            report = cut(path, out=out, by="by", per="per" if per else None, top_count=count)
            decided = read_decisions(out)
        kept = highest(frame if per else frame.with_columns(per=pl.lit(None)), count)
        assert decided["keep"].to_list() == [row in kept for row in range(len(rows))]
        assert report.kept == len(kept)
        if kept and not per:
            assert report.threshold == min(float(rows[row][0]) for row in kept)

    check()


def highest(frame: pl.DataFrame, count: int) -> set[int]:
    """The rows with the highest values of each group, as the documentation says it."""
    hashes = hash_samples(frame["key"], pl.Series(["t"] * frame.height)).tolist()
    kept: set[int] = set()
    for group in set(frame["per"]):
        mine = [
            (-value, -hashes[row], row)
            for row, (value, its) in enumerate(frame.select("by", "per").iter_rows())
            if its == group and value is not None and not math.isnan(value)
        ]
        kept |= {row for _, _, row in sorted(mine)[:count]}
    return kept


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 40))
@settings(max_examples=20)
def test_rows_come_back_in_the_order_in_which_they_came(sizes: list[int], step: int) -> None:
    rows = list(range(sum(sizes)))
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    frames = [pl.DataFrame({"n": rows[a:b]}) for a, b in pairwise(ends)]
    with TemporaryDirectory() as folder:
        database = Database(Path(folder))
        database.fill("t", pl.DataFrame(schema={"n": pl.Int64}), frames)
        stored = database.stream("FROM t")
        counts = [min(step, len(rows) - at) for at in range(0, len(rows), step)]
        taken = [row for count in counts for row in stored.take(count)["n"]]
        whole = [row for frame in database.stream("FROM t") for row in frame["n"]]
        database.close()
    assert taken == whole == rows


def test_an_order_to_end_that_was_swallowed_is_heard_after_the_statement(
    database: Database,
) -> None:
    """As where a signal comes while DuckDB imports a library that it might need."""
    with suppress(TerminatedError):
        order_to_end(TerminatedError())
    try:
        with pytest.raises(TerminatedError):
            database.run("CREATE TABLE t AS SELECT 1 AS n")
        with pytest.raises(TerminatedError):
            database.frame("FROM t")
    finally:
        forget_orders()
    assert database.frame("FROM t").rows() == [(1,)]


def test_the_database_opens_nothing_else(database: Database, tmp_path: Path) -> None:
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "t.parquet")
    for query in (f"FROM '{tmp_path}/t.parquet'", f"COPY (SELECT 1) TO '{tmp_path}/t.csv'"):
        with pytest.raises(duckdb.PermissionException):
            database.run(query)


def test_what_does_not_fit_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pl.DataFrame({"n": pl.int_range(300_000, eager=True)})
    rows.select(key="n", score=pl.col("n").hash().cast(pl.Float64)).write_parquet(
        tmp_path / "t.parquet"
    )
    monkeypatch.setattr(decide, "MEMORY", "2MB")
    with pytest.raises(MmsieveError, match=r"Out of Memory.*TMPDIR.* need room") as error:
        cut(tmp_path / "t.parquet", out=tmp_path / "keep", top_fraction=0.5)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep.run", "t.parquet"]


def test_too_many_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = write_table(tmp_path / "s", {"a": rows_of("a", [1.0] * 4, source=[*"xyzx"])})
    monkeypatch.setattr(decide, "MOST_GROUPS", 3)
    assert cut(scores, out=tmp_path / "keep", top_count=1, per="source").kept == 3
    monkeypatch.setattr(decide, "MOST_GROUPS", 2)
    with pytest.raises(RequestError, match="--per source: more than 2 different values"):
        cut(scores, out=tmp_path / "k2", top_count=1, per="source")


@pytest.mark.parametrize(
    ("values", "condition"),
    [
        (pl.Series([date(2020, 1, 1), date(2021, 1, 1)]), "x > '2020-06-01'::DATE"),
        (pl.Series([timedelta(1), timedelta(2)]), "x > INTERVAL '36 hours'"),
        (pl.Series(["a", "b"], dtype=pl.Categorical), "x = 'b'"),
        (pl.Series([["a"], ["b", None]]), "ARRAY_CONTAINS(x, 'b')"),
        (pl.Series([{"a": 1}, {"a": 2}]), "x.a > 1"),
        (pl.Series([None, 2**64 - 1], dtype=pl.UInt64), "x > 1"),
        (pl.Series([None, -0.0]), "x <= 0"),
        (pl.Series([False, True]), "x"),
        (pl.Series([None, ""]), "x = ''"),
    ],
)
def test_columns_of_any_type_are_joined_as_they_are(
    values: pl.Series, condition: str, tmp_path: Path
) -> None:
    scores = write_table(tmp_path / "s", {"a": rows_of("a", [1.0, 1.0, 1.0])})
    other = tmp_path / "other.parquet"
    # beside it a column that differs by its case alone
    columns = {"key": ["a-k2", "a-k0"], "x": values, "X": [7, 7]}
    pl.DataFrame(columns).write_parquet(other)
    cut(scores, other, out=tmp_path / "keep", where=f'({condition}) AND "X" = 7', on="key")
    assert kept_keys(tmp_path / "keep") == {"a-k0"}
