"""Typical mistakes: one line that says what is wrong, what is allowed or what to do; nothing else.

Each goes through the real command line, in a folder as a newcomer has it: `pics` with three
pictures and their texts, `scores` and `keep` made of them, and files of other kinds.
"""

import contextlib
import io
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import polars as pl
import pytest

from mmsieve import cli

MISTAKES = [
    # The command itself
    ("scor pics --model rules --out o", 'Unknown command "scor". Did you mean "score"?'),
    ("score pics --modle rules --out o", "Did you mean --model?; see mmsieve help score"),
    ("score pics --model rules", "score: --out is missing; see mmsieve help score"),
    ("score pics --fast --model rules --out o", "Did you mean --fast-images?"),
    ("train rater --out o", "train rater: RECIPE is missing; see mmsieve help train rater"),
    ("layouts json", "layouts: takes no 'json'; see mmsieve help layouts"),
    ("completion powershell", 'Choose from: "bash", "zsh", "fish"'),
    # Sources
    ("score --model rules --out o", "no SOURCE given: name a tar, a folder, a glob"),
    ("score nowhere --model rules --out o", "nowhere: no such file or folder"),
    ("score '{0..3}.tar' --model rules --out o", "4 of 4 files don't exist, the first is 0.tar"),
    ("score empty --model rules --out o", "nothing there that is read (.tar, .parquet"),
    ("score notes.docx --model rules --out o", "not a file that is read (.tar, .parquet"),
    ("score odd.json --model rules --out o", "layout not recognised: its items have foo"),
    ("score urls.parquet --model rules --out o", "download them first, with img2dataset"),
    ("rate talk.json --model mmssr-tiny-scorer --out o", "say where they are with --images DIR"),
    ("rate pics --model mmssr-tiny-scorer --out o", "holds caption samples, where instruction"),
    ("score ftpx://b/x.tar --model rules --out o", "s3://, gs://, hf://, https://"),
    ("score pics --layout webdataset --model rules --out o", 'Choose from: "captions"'),
    # Models
    ("score pics --model unifilter --out o", "(did you mean unifilter-tiny, of `score`?)"),
    ("score pics --model aitqe-tiny --out o", "use `enhance`"),
    ("score pics --model pics --out o", "no config.json in it: give the folder of a checkpoint"),
    ("score pics --model unifilter-tiny --device gpu --out o", "one of auto, cpu, cuda, cuda:N"),
    ("score pics --model unifilter-tiny --dtype fp16 --out o", '"float32", "bfloat16", "float16"'),
    ("convert unifilter-tiny --out o", "recognised as a quality classifier"),
    # Outputs and runs
    ("score pics --model rules --out pics", "is in the SOURCE pics: choose a folder outside"),
    ("score pics --model rules --out o.csv", "is called as a file, and would be a folder"),
    ("score pics --model rules --limit 0 --out o", "--limit 0: must be at least 1"),
    ("score pics --model rules --part 4/4 --out o", "write I/N with I from 0 to N-1"),
    ("score pics --model rules --patience 5 --out o", "such as 90s, 30m or 2h"),
    ("score pics --model rules --ray-address auto --out o", "is for --engine ray"),
    ("score pics --model rules --engine ray --devices 2 --out o", "is for --engine local"),
    # Tables
    ("filter scores --out o", "no cut given: say one of --min-score X, --top-fraction F"),
    ("filter scores --top-fraction 30 --out o", "must be above 0 and at most 1"),
    ("filter scores --top-fraction 30% --out o", "A share of 30% is written 0.3"),
    ("filter scores --min-score 1 --top-count 2 --out o", "--min-score and --top-count given"),
    ("filter scores --by qualty_score --min-score 1 --out o", "did you mean quality_score?"),
    ("filter scores --where 'language = en' --out o", "stands in single quotes"),
    ("filter scores --min-score 1 --out o.csv", "name a folder, or a file ending in .parquet"),
    ("filter scores.csv --min-score 1 --out o", "a table is Parquet; make one of it: python -c"),
    ("filter pics/red.jpg --min-score 1 --out o", "is no table: a table is a folder that score"),
    ("filter pics/*.jpg --min-score 1 --out o", "is no table: a table is a folder that score"),
    ("filter pics --min-score 1 --out o", "holds no Parquet file, so it is no table"),
    ("filter scores --min-score 1 --out keep", "choose another --out, or --overwrite"),
    ("select scores --budget 0.3 --out o", "is no table of ratings: `rate` makes one"),
    ("select scores --budget 30% --out o", "give a count, or with a dot a fraction"),
    # What is made of them
    ("export pics --out o", "nothing to export by: give --decisions, --captions, or both"),
    ("export pics --decisions scores --out o", "not decisions, there is no column keep"),
    ("report nowhere --out page.html", "nowhere: no such file or folder"),
    ("report scores --out page", "name a file that ends in .html"),
    ("audit scores --out form.html", "name the shards after the table, to show samples"),
    ("evaluate --model unifilter-tiny --out o", "give --model and --data, or two TABLEs"),
    ("evaluate scores keep --out o", "keep: holds decisions of filter or select, not scores: give"),
    ("evaluate keep scores --out o", "keep: holds decisions of filter or select, not scores: give"),
    ("evaluate keep keep --out o", "keep: holds decisions of filter or select, not scores: give"),
    ("report agreement --out page.html", "it compares two tables: give these to report instead"),
    ("evaluate scores --out o", "1 TABLE given: two can be compared"),
    # Models of one's own
    ("generate captions pics --teacher gpt-5 --count 4 --out o", "anthropic:MODEL or openai:MODEL"),
    ("generate captions pics --teacher openai:gpt-5 --count 4 --out o", "set OPENAI_API_KEY"),
    ("generate captions pics --teacher rendered --count 4 --out o", "draws its images: no SOURCE"),
    ("train classifier unifilter-tinny --out o", "(did you mean unifilter-tiny?)"),
    ("train rater aitqe-tiny --out o", "is a recipe of `train enhancer`, not of `train rater`"),
    ("train classifier unifilter-tiny --data nowhere.json --out o", "nowhere.json: no such file"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder as a newcomer has it, which is the current one meanwhile."""
    folder = tmp_path_factory.mktemp("first-hour")
    before = Path.cwd()
    os.chdir(folder)
    try:
        fill(folder)
        yield folder
    finally:
        os.chdir(before)


def fill(folder: Path) -> None:
    for name in ("pics", "empty"):
        (folder / name).mkdir()
    for name in ("red", "green", "blue"):
        PIL.Image.new("RGB", (32, 32), name).save(folder / "pics" / f"{name}.jpg")
        (folder / "pics" / f"{name}.txt").write_text(f"A {name} square.")
    (folder / "notes.docx").write_bytes(b"PK")
    (folder / "odd.json").write_text('[{"foo": 1}]')
    talk = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A square."}]
    item = {"id": "1", "image": "red.jpg", "conversations": talk}
    (folder / "talk.json").write_text(json.dumps([item]))
    (folder / "scores.csv").write_text("key,score\nred,1.0\n")
    pl.DataFrame({"url": ["http://x/a.jpg"], "caption": ["A."]}).write_parquet("urls.parquet")
    for line in (
        "score pics --model rules --out scores",
        "filter scores --top-count 2 --out keep",
        "evaluate scores scores --out agreement",
    ):
        words = [*line.split(), "--quiet", *(["--workers", "0"] if "score " in line else [])]
        assert run(words)[0] == 0


def run(words: list[str]) -> tuple[object, str, str]:
    """A command in this process: its exit code, and what it says on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with redirected[0], redirected[1], pytest.raises(SystemExit) as ended:
        cli.main(words)
    return ended.value.code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_typical_mistake_is_one_line_that_helps(place, monkeypatch, line, said):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("mmsieve.methods.folders.hub_folder", lambda name: None)
    before = sorted(place.rglob("*"))
    code, out, err = run(shlex.split(line))
    assert code == 2, err
    assert out == ""
    assert err.startswith("mmsieve: ")
    assert err.count("\n") == 1
    assert said in err
    assert "Traceback" not in err
    assert "internal error" not in err
    assert sorted(place.rglob("*")) == before, "something was written"


def test_a_traceback_is_there_for_those_who_ask(place):
    code, _, err = run(["score", "nowhere", "--model", "rules", "--out", "o", "--debug"])
    assert code == 2
    assert err.startswith("Traceback")
