"""The decisions of a filter request: DuckDB joins, ranks and sorts in a temporary database.

One pass over the tables leaves in the database why each row isn't kept, or its value and group, in
the order of the rows. A threshold is the value at a place among sorted rows; then the rows are read
back beside their names. DuckDB opens its own files only, and spills what exceeds its memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from polars import selectors as cs

from mmsieve.decisions import DecisionRows
from mmsieve.errors import RequestError, Status, heed_orders
from mmsieve.filtering.ids import Counts, hash_samples
from mmsieve.filtering.request import Column, FilterPlan, JoinedTables, On
from mmsieve.progress import Advance
from mmsieve.tables import CHUNK, Origins
from mmsieve.wording import counted

WHERE, NO_SCORE, BELOW_CUT, TIE_AT_CUT = REASONS = ("where", "no_score", "below_cut", "tie_at_cut")
"""Why a row that is `ok` isn't kept."""
MOST_GROUPS = 1_000_000
BATCH = 1 << 17
"""Rows that go into the database, and come out of it, at a time."""
MEMORY = "400MB"
"""What DuckDB counts as its own: with Python, polars and what isn't counted below 1 GB."""
MOST_JOINED = 50_000_000
"""Rows of a table that a join is given at a time: so many fit, four times as many did not."""


class Database:
    """A temporary DuckDB database whose rows keep the order in which they came."""

    def __init__(self, folder: Path) -> None:
        self._connection = duckdb.connect(
            folder / "rows.duckdb",
            config={"memory_limit": MEMORY, "threads": 2, "temp_directory": str(folder)},
        )
        self.run("SET enable_external_access = false")  # no file, no network

    def close(self) -> None:
        """Let go of the files."""
        self._connection.close()

    def run(self, query: str) -> None:
        """Run a statement."""
        self._connection.execute(query)
        heed_orders()  # DuckDB goes on where one came while it imported what it might need

    def fill(
        self,
        table: str,
        empty: pl.DataFrame,
        frames: Iterable[pl.DataFrame],
        query: str = "FROM frame",
    ) -> None:
        """Make a table of what a query gives of frames, which have the columns of `empty`."""
        self._run_over(empty, f"CREATE OR REPLACE TABLE {table} AS {query}")
        waiting, height = [empty], 0
        for frame in frames:
            waiting.append(frame)
            height += frame.height
            if height >= BATCH:
                self._run_over(pl.concat(waiting), f"INSERT INTO {table} {query}")
                waiting, height = [empty], 0
        self._run_over(pl.concat(waiting), f"INSERT INTO {table} {query}")

    def _run_over(self, frame: pl.DataFrame, query: str) -> None:
        arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        self._connection.register("frame", arrow)
        self.run(query)
        self._connection.unregister("frame")

    def frame(self, query: str) -> pl.DataFrame:
        """All rows that a query gives."""
        found = pl.DataFrame(self._connection.sql(query).to_arrow_table())
        heed_orders()
        return found

    def stream(self, query: str) -> "StoredRows":
        """The rows that a query gives, read as they are asked for."""
        return StoredRows(self._connection.cursor(), query)


class StoredRows:
    """What a query gives, in its order, some rows at a time."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, query: str) -> None:
        self._cursor = cursor  # what it reads ends with it
        self._batches = cursor.sql(query).to_arrow_reader(BATCH)
        self._left = pl.DataFrame(self._batches.schema.empty_table())

    def __iter__(self) -> Iterator[pl.DataFrame]:
        return map(pl.DataFrame, self._batches)

    def take(self, count: int) -> pl.DataFrame:
        """The next `count` rows."""
        frames, height = [self._left], self._left.height
        while height < count:
            frames.append(pl.DataFrame(self._batches.read_next_batch()))
            height += frames[-1].height
        rows = pl.concat(frames)
        self._left = rows.slice(count)
        return rows.head(count)


# The rows of the first table in order, with the columns of all

_KEY, _NTH = "#key", "#nth"
_NO_VALUES = pl.DataFrame(schema={"value": pl.String})
_HASHED = "SELECT * REPLACE (md5_number(value) AS value) FROM frame"
"""Join columns as 128-bit hashes: half the memory and time of strings of 32 digits."""


class JoinedRows:
    """Frames of the first table's rows in order, with these columns of all tables."""

    def __init__(
        self, joined: JoinedTables, columns: Iterable[Column], database: Database | None = None
    ) -> None:
        """`database` is where tables are joined by values; shard by shard none is needed."""
        self.notes: list[str] = []
        self._joined, self._first = joined, joined.tables[0]
        self._others = range(1, len(joined.tables))
        self._wanted: list[list[Column]] = [[] for _ in joined.tables]
        for column in sorted(columns):
            self._wanted[column.table].append(column)
        self._joins: list[tuple[StoredRows, pl.DataFrame]] = []
        if joined.on is not None and database is not None:
            self._joins = list(self._by_values(joined.on, database))

    def __iter__(self) -> Iterator[pl.DataFrame]:
        names = [column.name for column in self._wanted[0]]
        names = names or list(self._first.types)[:1]  # a frame needs a column for rows
        if self._joined.on is None and self._others:
            yield from self._by_shard(names)
            return
        for _, frame in self._first.batches(names):
            found = [_restored(rows.take(frame.height), empty) for rows, empty in self._joins]
            yield pl.concat([_inner(frame, 0), *found], how="horizontal")

    def _by_shard(self, names: list[str]) -> Iterator[pl.DataFrame]:
        for file in self._first.files:
            (frame,) = self._first.read(file, list({*names, "key"}), whole=True)
            keys = frame["key"].cast(pl.String)
            others = (self._aligned(number, file.shard, keys) for number in self._others)
            yield pl.concat([_inner(frame, 0), *others], how="horizontal")

    def _aligned(self, number: int, shard: str, keys: pl.Series) -> pl.DataFrame:
        """Another table's rows of the same shard, in the order of the first table's keys."""
        table, names = self._joined.tables[number], [c.name for c in self._wanted[number]]
        (frame,) = table.read(table.by_shard[shard], list({*names, "key"}), whole=True)
        right = frame.with_columns(pl.col("key").cast(pl.String).alias(_KEY))
        if not right[_KEY].equals(keys):
            # a repeated key's rows are matched in their own order
            nth = pl.int_range(pl.len(), dtype=pl.UInt32).over(_KEY).alias(_NTH)
            left, right = pl.DataFrame({_KEY: keys}).with_columns(nth), right.with_columns(nth)
            frame = left.join(right, on=[_KEY, _NTH], how="inner", maintain_order="left")
            if not frame.height == left.height == right.height:
                raise RequestError(
                    f"{shard} has other samples in {table.name} than in {self._first.name}: "
                    "score the same SOURCEs, or say --on key or --on uid"
                )
        return _inner(frame.select(names), number)

    def _by_values(self, on: On, database: Database) -> Iterator[tuple[StoredRows, pl.DataFrame]]:
        """Of each table that is needed the rows in the first one's order, and their types."""
        others = [number for number in self._others if self._wanted[number]]
        rows = (_values(frame, on) for _, frame in self._first.batches([on]))
        if others:
            database.fill("sample", _NO_VALUES, rows, _HASHED)
        for number in others:
            empty = self._joined.empty(self._wanted[number])
            self._join(number, on, empty, database)
            yield database.stream(f"SELECT * EXCLUDE (found) FROM joined{number}"), empty

    def _join(self, number: int, on: On, empty: pl.DataFrame, database: Database) -> None:
        """Make a table of another table's rows in the order of the first one's."""
        table = self._joined.tables[number]
        empty = _storable(empty).hstack(_NO_VALUES)
        database.fill("other", empty, self._other(number, on), _HASHED)
        database.run(
            "CREATE OR REPLACE TABLE twice AS SELECT value FROM other WHERE value NOT NULL "
            "GROUP BY value HAVING count(*) > 1"
        )
        if on == "key":  # rows of one key in several shards aren't one sample
            database.run(
                "INSERT INTO twice SELECT value FROM sample SEMI JOIN other USING (value) "
                "GROUP BY value HAVING count(*) > 1"
            )
        if database.frame("FROM twice LIMIT 1").height:
            values = (frame.select("value") for frame in self._other(number, on))
            named = "FROM frame SEMI JOIN twice ON md5_number(frame.value) = twice.value"
            database.fill("named", _NO_VALUES, values, named)
            found = database.frame("SELECT min(value) FROM named").item()
            raise RequestError(
                f"{on} {found} comes more than once in {table.name} or {self._first.name}, so it "
                "isn't known which row is meant: make its values unique, or join --on the other of "
                "key and uid"
            )
        # two steps: a join and a sort at once would need more memory
        self._match(database)
        database.run("DROP TABLE other")
        database.run(
            f"CREATE TABLE joined{number} AS SELECT * EXCLUDE (row) FROM unsorted ORDER BY row"
        )
        database.run("DROP TABLE unsorted")
        matched = database.frame(f"SELECT count(found) FROM joined{number}").item()
        if not matched:
            raise RequestError(
                f"no row of {self._first.name} is in {table.name} by its {on}: join --on the other "
                "of key and uid, or give tables of the same samples"
            )
        self.notes.append(f"{matched:,} of {self._first.rows:,} rows found in {table.name} by {on}")

    def _match(self, database: Database) -> None:
        """Make a table of the numbers of the first table's rows and what the other one has of them.

        By parts of the hashes, as a join needs memory for all that it is given.
        """
        rows = max(self._first.rows, database.frame("SELECT count(*) FROM other").item())
        parts = -(-rows // MOST_JOINED)
        for part in range(parts):
            where = f"WHERE hash(value) % {parts} = {part}" if parts > 1 else ""
            make = "INSERT INTO unsorted" if part else "CREATE OR REPLACE TABLE unsorted AS"
            database.run(
                f"{make} SELECT * EXCLUDE (value) "
                f"FROM (SELECT rowid AS row, value FROM sample {where}) "
                f"LEFT JOIN (SELECT *, true AS found FROM other {where}) USING (value)"
            )

    def _other(self, number: int, on: On) -> Iterator[pl.DataFrame]:
        """All rows of another table that can be meant, as they are stored."""
        table, names = self._joined.tables[number], [c.name for c in self._wanted[number]]
        ours = table.is_ours and "status" in table.types
        for _, frame in table.batches(list({*names, on, *(["status"] if ours else [])})):
            if ours:
                frame = frame.filter(pl.col("status") != Status.DUPLICATE_KEY)
            yield _storable(frame.select(names)).hstack(_values(frame, on))


def _inner(frame: pl.DataFrame, table: int) -> pl.DataFrame:
    return frame.rename({name: Column(table, name).inner for name in frame.columns})


def _values(frame: pl.DataFrame, on: On) -> pl.DataFrame:
    return frame.select(pl.col(on).cast(pl.String).alias("value"))


def _storable(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns as DuckDB keeps them, numbered: its names have no upper and lower case."""
    stored = frame.with_columns(
        cs.temporal().to_physical(),
        (cs.categorical() | cs.enum()).cast(pl.String),
        cs.by_dtype(pl.Float16).cast(pl.Float32),
    )
    return stored.rename({name: f"c{place}" for place, name in enumerate(frame.columns)})


def _restored(frame: pl.DataFrame, empty: pl.DataFrame) -> pl.DataFrame:
    """Stored columns with their own names and types."""
    frame.columns = empty.columns
    return frame.cast(empty.schema)


# What each row is by itself

_HOLDS = "#holds"


def _reason(plan: FilterPlan) -> pl.Expr:
    """The first thing that speaks against a row by itself; null where nothing does."""
    found = [pl.lit(None, pl.String)]
    for column in plan.statuses:
        status = pl.col(column.inner).cast(pl.String)
        found.append(pl.when(status != Status.OK.value).then(status))
    if plan.condition is not None:
        found.append(pl.when(~pl.col(_HOLDS)).then(pl.lit(WHERE)))
    least = plan.options.min_score
    if plan.score is not None and (plan.options.is_ranked or least is not None):
        score, dtype = pl.col(plan.score.inner), plan.joined.dtype(plan.score)
        is_none = score.is_null() | (score.is_nan() if dtype.is_float() else False)
        found.append(pl.when(is_none).then(pl.lit(NO_SCORE)))
        if least is not None:  # what prints as the limit is kept
            least = float(np.float32(least)) if dtype == pl.Float32 else least
            found.append(pl.when(score.cast(pl.Float64) < least).then(pl.lit(BELOW_CUT)))
    return pl.coalesce(found)


def _value(plan: FilterPlan) -> pl.Expr:
    """The score as it is ranked, without loss of order."""
    if plan.score is None:
        return pl.lit(None, pl.Float32)
    score, dtype = pl.col(plan.score.inner), plan.joined.dtype(plan.score)
    if dtype.is_integer():
        return score.cast(pl.UInt64 if dtype.is_unsigned_integer() else pl.Int64)
    return score.cast(pl.Float32 if dtype in (pl.Float16, pl.Float32) else pl.Float64)


def _group(plan: FilterPlan, codes: pl.DataType) -> pl.Expr:
    """The number of a ranked row's group: from 1 in the order in which they come; 0 of null."""
    if plan.per is None:
        return pl.lit(0, pl.UInt32)
    ranked = pl.when(pl.col("reason").is_null()).then(pl.col(plan.per.inner).cast(pl.String))
    return (ranked.cast(codes).to_physical() + 1).fill_null(0)


# Rows by their ranks: the highest of each group, ties by a stable hash of names, then by place


@dataclass(frozen=True)
class Ties:
    """How far the scores told the ranked rows apart."""

    distinct: int
    """Different scores."""
    tied: int
    """Rows whose score is the lowest that is kept, where not all of these are kept; of all groups
    together."""
    kept: int
    """Of those, the rows that a hash of their keys chose."""


_RANKED = "judged WHERE reason IS NULL"


class FilterDecisions(DecisionRows):
    """The decisions of a request, and what there is to say of its thresholds."""

    def __init__(self, plan: FilterPlan, database: Database, advance: Advance) -> None:
        self._plan, self._database = plan, database
        self.threshold: float | None = None
        """The lowest value that is kept, where there is one group."""
        self.ties = Ties(0, 0, 0)
        self.groups: dict[str, tuple[int, int]] = {}
        """With --per: group -> kept and scored rows."""
        self._thresholds: pl.DataFrame | None = None
        """Of each group the lowest value that is kept; where not all that equal it are, it is
        open, and has the hash and row of the last of them."""
        groups = pl.Categories.random()
        codes = pl.Series(
            "grp", [], pl.Categorical(groups)
        )  # they last as long as a column of them
        joined = JoinedRows(plan.joined, plan.columns, database)
        empty = self._judge(plan.joined.empty(plan.columns), codes)
        frames = (self._judge(frame, codes, advance) for frame in joined)
        database.fill("judged", empty, frames)
        self.notes = joined.notes
        names = [""] if plan.per is None else ["null", *groups.to_series()]
        found = self._find(names) if plan.options.is_ranked else {}
        super().__init__(self._decided(), plan.first.files, plan.fingerprint, found, advance)

    def _judge(
        self, frame: pl.DataFrame, codes: pl.Series, advance: Advance | None = None
    ) -> pl.DataFrame:
        """Why each row of the joined tables isn't kept; its value and group."""
        plan = self._plan
        if plan.condition is not None:
            frame = frame.with_columns(plan.condition.holds(frame).alias(_HOLDS))
        frame = frame.with_columns(_reason(plan).alias("reason"), _value(plan).alias("value"))
        judged = frame.with_columns(_group(plan, codes.dtype).alias("grp"))
        if plan.per is not None and (judged["grp"] > MOST_GROUPS).any():
            raise RequestError(
                f"--per {plan.per.name}: more than {MOST_GROUPS} different values; choose a column "
                "with fewer"
            )
        if advance is not None:
            advance(0, frame.height)
        return judged.select("reason", "value", "grp")

    def _find(self, names: Sequence[str]) -> dict[str, str]:
        """Find the thresholds between the ranked rows; returns what the header says of them."""
        plan, options = self._plan, self._plan.options
        counts = np.zeros(len(names), np.int64)
        sizes = self._database.frame(f"SELECT grp, count(*) AS n FROM {_RANKED} GROUP BY grp")
        counts[sizes["grp"].to_numpy()] = sizes["n"].to_numpy()
        wanted = options.wanted(counts)
        lowest = self._at("value", _RANKED, "value DESC", counts, wanted)
        self._settle(lowest, wanted)
        found = {"scored": str(counts.sum()), "wanted": str(wanted.sum())}
        found |= {"distinct": str(self.ties.distinct), "tied": str(self.ties.tied)}
        found["tied_kept"] = str(self.ties.kept)
        few = counts < (options.top_count or 0)
        if plan.per is not None:
            few &= counts > 0
            pairs = zip(names, wanted.tolist(), counts.tolist(), strict=True)
            self.groups = {name: (kept, scored) for name, kept, scored in pairs if scored}
        elif plan.score is not None and wanted.sum():
            dtype = plan.joined.dtype(plan.score)
            value = (lowest["value"] + 0).cast(dtype).to_numpy()[0]  # one zero, not two
            self.threshold, found["lowest"] = float(value), str(value)
        if few.any():
            where = "" if plan.per is None else f" in {counted(few.sum(), 'groups')}"
            fewer = f"fewer than {options.top_count:,} scored rows{where}"
            self.notes.append(f"{fewer}: all of them are kept")
        return found

    def _at(
        self, columns: str, rows: str, order: str, counts: Counts, wanted: Counts
    ) -> pl.DataFrame:
        """The last wanted row of each group, which has so many rows, in an order."""
        groups = np.arange(len(counts), dtype=np.uint32)
        place = np.cumsum(counts) - counts + wanted
        places = pl.DataFrame({"grp": groups, "place": place}).filter(wanted > 0)
        self._database.fill("places", places.clear(), [places])
        order = order if len(counts) == 1 else f"grp, {order}"
        return self._database.frame(
            f"SELECT places.grp, {columns} FROM (SELECT *, row_number() OVER () AS place "
            f"FROM (SELECT {columns} FROM {rows} ORDER BY {order})) "
            "JOIN places USING (place) ORDER BY places.grp"
        )

    def _settle(self, lowest: pl.DataFrame, wanted: Counts) -> None:
        """Set the thresholds, of the lowest value that is kept of each group that keeps one."""
        self._database.fill("lowest", lowest.clear(), [lowest])
        whole = self._database.frame(
            "SELECT grp, count(*) FILTER (judged.value > lowest.value) AS above, "
            "count(*) FILTER (judged.value = lowest.value) AS equal "
            "FROM judged JOIN lowest USING (grp) WHERE reason IS NULL GROUP BY grp"
        )
        every = pl.DataFrame({"grp": np.arange(len(wanted), dtype=np.uint32), "wanted": wanted})
        joined = every.join(lowest, on="grp", how="left", maintain_order="left")
        joined = joined.join(whole, on="grp", how="left", maintain_order="left")
        ties = pl.col("wanted") - pl.col("above")
        is_open = (ties < pl.col("equal")).fill_null(False)
        found = joined.select("grp", "value", "equal", ties.alias("ties"), is_open.alias("open"))
        self._thresholds = found
        distinct = self._database.frame(f"SELECT count(DISTINCT value) FROM {_RANKED}").item()
        at_cut = found.filter("open").select(pl.col("equal", "ties").sum()).row(0)
        self.ties = Ties(distinct, *at_cut)
        if found["open"].any():
            empty = pl.DataFrame(schema={"grp": pl.UInt32, "hash": pl.UInt64, "row": pl.Int64})
            self._database.fill("tied", empty, self._tied())
            sizes = found.select(pl.col("equal", "ties") * pl.col("open")).fill_null(0).to_numpy()
            last = self._at("hash, row", "tied", "hash DESC, row", sizes[:, 0], sizes[:, 1])
            self._thresholds = found.join(last, on="grp", how="left", maintain_order="left")

    def _tied(self) -> Iterator[pl.DataFrame]:
        """Group, hash and number of the rows at a threshold that keeps some of its equals."""
        ids, rows, start = self._plan.ids, self._judged(), 0
        for file in self._plan.first.files:
            frames = self._plan.first.read(file, ids.columns, whole=False)
            named = (ids.of([(file, frame.height)], frame) for frame in frames)
            # most files hold no such row: a small one's names are read where it does only
            for names in [None] if file.rows <= CHUNK else named:
                height = file.rows if names is None else names.height
                outcome = self._ranked(rows.take(height))
                if outcome["tied"].any():
                    yield _hashed(next(named) if names is None else names, outcome, start)
                start += height

    def _decided(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        rows, ids, start = self._judged(), self._plan.ids, 0
        for origins, frame in self._plan.first.batches(ids.columns):
            names, outcome = ids.of(origins, frame), self._ranked(rows.take(frame.height))
            reason = outcome["reason"]
            if self._thresholds is not None and outcome["tied"].any():
                tied = _hashed(names, outcome, start)
                last = self._thresholds[tied["grp"]]
                lost = tied["hash"] < last["hash"]
                lost |= (tied["hash"] == last["hash"]) & (tied["row"] > last["row"])
                reason = reason.scatter(tied["row"].filter(lost) - start, TIE_AT_CUT)
            start += frame.height
            yield origins, names.hstack([reason.is_null().alias("keep"), reason, outcome["score"]])

    def _judged(self) -> StoredRows:
        return self._database.stream("FROM judged")

    def _ranked(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Judged rows with `below_cut` as a reason, and whether a row is at an open threshold."""
        score = pl.col("value").cast(pl.Float32).fill_nan(None).alias("score")
        if self._thresholds is None:
            return rows.select("grp", "reason", score)
        at = self._thresholds[rows["grp"]]
        left, value = pl.col("reason").is_null(), pl.col("value")
        below = left & ~(value >= at["value"]).fill_null(False)
        return rows.select(
            "grp",
            pl.when(below).then(pl.lit(BELOW_CUT)).otherwise("reason").alias("reason"),
            score,
            tied=left & (value == at["value"]).fill_null(False) & at["open"],
        )


def _hashed(names: pl.DataFrame, rows: pl.DataFrame, start: int) -> pl.DataFrame:
    """Group, hash and number of the tied ones of some rows."""
    tied = rows["tied"].arg_true()
    named = names[tied]
    hashes = pl.Series("hash", hash_samples(named["key"], named["shard"]))
    return pl.DataFrame([rows["grp"][tied], hashes, (tied.cast(pl.Int64) + start).alias("row")])


# DataComp's subset file: a sorted array of the kept samples' uids, each as two 64-bit integers


def write_uids(decided: FilterDecisions, database: Database, path: Path) -> None:
    """Write the uids of the kept samples as `numpy.save` would."""
    pairs = (_pairs(rows.filter("keep")) for _, rows in decided)
    database.fill("uids", pl.DataFrame(schema={"f0": pl.UInt64, "f1": pl.UInt64}), pairs)
    dtype = [("f0", "<u8"), ("f1", "<u8")]
    header = {"descr": dtype, "fortran_order": False, "shape": (decided.kept,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for frame in database.stream("FROM uids ORDER BY f0, f1"):
            columns = [frame["f0"].to_numpy(), frame["f1"].to_numpy()]
            np.rec.fromarrays(columns, dtype=dtype).tofile(file)


def _pairs(kept: pl.DataFrame) -> pl.DataFrame:
    """The uids of kept samples; raises RequestError for one that DataComp can't read."""
    uids = kept["uid"].cast(pl.String)
    wrong = ~uids.str.contains("^[0-9a-fA-F]{32}$").fill_null(False)
    if wrong.any():
        first = int(wrong.arg_true()[0])
        raise RequestError(
            f"--format datacomp: {kept['key'][first]!r} is kept and its uid is {uids[first]!r}, "
            "not 32 hexadecimal digits: leave such samples out with --where, or use "
            "--format parquet"
        )
    halves = pl.DataFrame({"f0": uids.str.slice(0, 16), "f1": uids.str.slice(16, 16)})
    return halves.select(pl.all().str.to_integer(base=16, dtype=pl.UInt64))
