"""--dry-run: whatever the verb, it says what would be done, and that nothing was written."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.helpers.command_line import run_line
from tests.helpers.selections import ratings_of, write_ratings
from tests.helpers.shards import captions, write_tar

LINES = {
    "score {d}/pool --model rules --out {out}": "to do a",
    "filter {d}/scores --where place<1 --out {out}": "would keep 1 of 2 rows",
    "select {d}/ratings --budget 1 --out {out}": "would keep 1 of 2 rows",
    "export {d}/pool --decisions {d}/keep --out {out}": "would export 1 sample",
    "report {d}/scores --out {out}.html": "would show 1 section, ",
    "audit {d}/ratings {d}/pool --by ocr --out {out}.html": "would ask about 2 samples",
    "evaluate {d}/ratings {d}/ratings --by ocr --out {out}": "would compare 2 rows of",
    "train classifier unifilter-tiny --smoke --out {out}": "would train",
    "generate captions --teacher rendered --count 2000 --out {out}": "would write 2,000 captions",
    "demo --out {out}": "$ mmsieve ",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A tar, its scores, decisions that keep one sample of it, and ratings."""
    folder = tmp_path_factory.mktemp("drawn")
    write_tar(folder / "pool" / "a.tar", captions(2))
    scoring = ("--model", "rules", "--out", folder / "scores")
    assert run_line("score", folder / "pool", *scoring).code == 0
    cut = ("--where", "place<1", "--out", folder / "keep")
    assert run_line("filter", folder / "scores", *cut).code == 0
    rows = [{"key": str(n), "styles": ["x"], "image_source": "a", "ocr": n} for n in (1, 2)]
    write_ratings(folder / "ratings", ratings_of(rows, ocr=pa.int8()))
    return folder


@pytest.mark.parametrize("line", LINES)
def test_nothing_was_written(line, drawn, tmp_path):
    words = line.format(d=drawn, out=tmp_path / "out").split()
    done = run_line(*words, "--dry-run", "--quiet")
    assert done.code == 0, done.err
    *said, last = done.out.splitlines()
    assert any(LINES[line] in one for one in said), done.out
    assert last.startswith("nothing was written in ") and str(tmp_path / "out") in last
    assert not list(tmp_path.iterdir())


def test_machines_are_told_that_it_was_a_dry_run(drawn, tmp_path):
    words = ("filter", drawn / "scores", "--where", "place<1", "--out", tmp_path / "out")
    done = run_line(*words, "--dry-run", "--log-json")
    assert json.loads(done.err.splitlines()[-1])["dry_run"] is True
