"""A sample that makes its preparer fail is a row; nothing it does ends the run or the shard."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.errors import MmsieveError, SampleError, ShardError, Status
from mmsieve.images import ImageLimits, ImageSpec, load_square
from mmsieve.read import ImageFolder, ReadOptions, SampleLimits
from mmsieve.read.parquet import ParquetRows, read_records, rows_at_once
from mmsieve.sample import Sample, Text
from tests.helpers.plugins import RAISED, Poisonous, write_plugin
from tests.helpers.shards import caption, image, write_parquet, write_tar

REPOSITORY = Path(__file__).parents[2]
LIMITS = SampleLimits(max_text_chars=200, sample_timeout=0.2)


def write_shards(folder: Path, shards: list[list[str]]) -> Path:
    for number, texts in enumerate(shards):
        members = [m for n, text in enumerate(texts) for m in caption(f"{n:04d}", text)]
        write_tar(folder / f"{number:05d}.tar", members)
    return folder


def annotate(folder: Path, out: Path, **run) -> RunReport:
    options = RunOptions(quiet=True, **{"workers": 0, "limits": LIMITS} | run)
    return run_annotator(
        lambda device: Poisonous(),
        [str(folder)],
        out,
        device="cpu",
        read=ReadOptions(),
        run=options,
    )


def rows(out: Path, shard: str) -> list[tuple[str, float | None]]:
    table = pl.read_parquet(out / f"{shard}.parquet").sort("key")
    return list(zip(table["status"], table["quality_score"], strict=True))


GOOD = st.sampled_from(["good", "a better one", "the best of all"])
POISON = st.sampled_from([*(f"raise {name}" for name in RAISED), "long " * 50])
LOST = st.just("raise MemoryError")


@given(
    shards=st.lists(st.lists(GOOD | GOOD | POISON | LOST, min_size=1, max_size=6), max_size=4),
    hangs=st.booleans(),
)
@settings(max_examples=40)
def test_any_mixture_of_samples(tmp_path_factory, shards, hangs):
    if hangs and shards:
        shards[0].append("hang")
    folder = tmp_path_factory.mktemp("mixture")
    write_shards(folder / "in", [*shards, ["good"]])
    report = annotate(folder / "in", folder / "out")
    for number, texts in enumerate(shards):
        shard = f"{number:05d}"
        if "raise MemoryError" in texts:
            assert "out of memory" in report.failed[shard]
            continue
        assert shard not in report.failed
        for text, (status, score) in zip(texts, rows(folder / "out", shard), strict=True):
            is_good = not text.startswith(("raise", "long", "hang"))
            assert score == (len(text) if is_good else None)
            wanted = "text_too_long" if text.startswith("long") else "preparation_failed"
            assert status == ("ok" if is_good else wanted)
    assert rows(folder / "out", f"{len(shards):05d}") == [("ok", 4.0)]


def test_out_of_memory_is_done_again_and_nobody_elses_fault(tmp_path):
    write_shards(tmp_path / "in", [["good", "raise MemoryError", "good"], ["good"]])
    report = annotate(tmp_path / "in", tmp_path / "out")
    assert report.failed == {"00000": "out of memory at '0001': use fewer --workers"}
    write_shards(tmp_path / "in", [["good", "well again", "good"], ["good"]])
    assert not annotate(tmp_path / "in", tmp_path / "out", overwrite=True).failed


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_what_a_machine_lacks_is_no_samples_fault(tmp_path, number):
    write_shards(tmp_path / "in", [["good", f"errno {number}", "good"], ["good"]])
    why = f"'0001' can't be prepared here: [Errno {number}] {os.strerror(number)}"
    for _ in range(2):  # it is done again
        assert annotate(tmp_path / "in", tmp_path / "out").failed == {"00000": why}
        assert not (tmp_path / "out" / "00000.parquet").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_ends_the_run_at_the_first_sample_that_meets_it(tmp_path, number):
    write_shards(tmp_path / "in", [["good", f"errno {number}", "good"], ["good"]])
    with pytest.raises(MmsieveError, match=r"00000: '0001' can't be prepared here: .*: make room"):
        annotate(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "00000.parquet").exists()


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, ShardError), (errno.ENOENT, SampleError)])
def test_an_image_that_cannot_be_read_now_is_not_missing(tmp_path, monkeypatch, number, kind):
    (tmp_path / "a.jpg").write_bytes(image())

    def fail(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(kind, match=r"'a\.jpg' can't be read: "):
        ImageFolder(str(tmp_path)).read("a.jpg")


def test_a_panic_in_the_runner_fails_its_shard_alone(tmp_path):
    write_shards(tmp_path / "in", [["good", "runner"], ["good"]])
    report = annotate(tmp_path / "in", tmp_path / "out")
    assert list(report.failed) == ["00000"]
    assert rows(tmp_path / "out", "00001") == [("ok", 4.0)]


def test_an_interrupt_passes_on(tmp_path):
    write_shards(tmp_path / "in", [["raise KeyboardInterrupt"]])
    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path / "in", tmp_path / "out")


@pytest.mark.long
@pytest.mark.parametrize("engine", [("--workers", 0), ("--workers", 1), ("--workers", 2), "ray"])
def test_every_poison_over_the_command_line(tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra [ray]")
        engine = ("--engine", "ray", "--workers", 1)
    has_workers = engine[0] == "--workers" and engine[1] > 0
    write_plugin(tmp_path / "site", "poisonous", "tests.helpers.plugins:make")
    shards = mixture(random.Random(str(engine)), ["hang", *(["crash"] if has_workers else [])])
    shards[2].append("raise MemoryError")
    write_shards(tmp_path / "in", shards)
    path = os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)])
    words = ["score", tmp_path / "in", "--model", "poisonous", "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "mmsieve", *words, "--sample-timeout", 3, "--quiet", *engine]
    run = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert run.returncode == 1, run.stderr
    assert f"out of memory at '{len(shards[2]) - 1:04d}': use fewer --workers\n" in run.stderr
    assert "Traceback" not in run.stderr
    for number, texts in enumerate(shards):
        lost = next((word for word in ("crash", "raise MemoryError") if word in texts), None)
        assert (f"\nshard {number:05d}: " in f"\n{run.stderr}") == (lost is not None), run.stderr
        if lost is None:
            wanted = [result(text) for text in texts]
            assert rows(tmp_path / "out", f"{number:05d}") == wanted


def mixture(rng: random.Random, more: list[str]) -> list[list[str]]:
    """Six shards of good samples, with every poison somewhere in one; what isn't a row apart."""
    shards = [["good"] * 20 for _ in range(6)]
    for text in [*(f"raise {name}" for name in RAISED), "long " * 10**5 * 5, *more]:
        shard = shards[3] if text == "crash" else rng.choice(shards)
        shard.insert(rng.randrange(len(shard) + 1), text)
    return shards


def result(text: str) -> tuple[str, float | None]:
    """Status and score of a sample's row."""
    if text.startswith("long"):
        return "text_too_long", None
    return ("ok", float(len(text))) if text == "good" else ("preparation_failed", None)


# Limits


def many_images(count: int, data: bytes) -> Sample:
    return Sample.document(["text", *[data] * count])


@pytest.mark.parametrize(
    ("limits", "sample", "status"),
    [
        ({"max_images": 3}, many_images(4, image()), Status.TOO_MANY_IMAGES),
        ({"max_text_chars": 3}, Sample("a", (Text("four"),)), Status.TEXT_TOO_LONG),
        (
            {"max_sample_pixels": 100},
            Sample.document([image(1), image(2), "text"]),
            Status.IMAGE_TOO_LARGE,
        ),
    ],
)
def test_a_sample_beyond_a_limit_is_refused(limits, sample, status):
    with pytest.raises(SampleError) as caught:
        SampleLimits(**limits).check(sample)
    assert caught.value.status == status
    assert f"--{next(iter(limits)).replace('_', '-')}" in str(caught.value)


def test_one_picture_many_times_is_counted_and_decoded_once(monkeypatch):
    SampleLimits(max_sample_pixels=100).check(many_images(50, image()))
    spec = ImageSpec(4, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "stretch")
    squares = [load_square(image(), spec, ImageLimits()) for _ in range(50)]
    assert len({id(square) for square in squares}) == 1


@pytest.fixture
def small_batches(monkeypatch) -> int:
    """What a batch may take, so small that the files of a test needn't be large."""
    monkeypatch.setattr("mmsieve.read.parquet._BATCH_BYTES", 2**20)
    return 2**20


def test_a_parquet_file_that_expands_is_named(tmp_path, small_batches):
    columns = {"image": [image()] * 8, "text": ["x" * 2**20] * 8}
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "bomb.parquet"
    write_parquet(path, columns, compression="zstd", use_dictionary=False)
    report = annotate(tmp_path / "in", tmp_path / "out")
    assert "of column text expand to" in report.failed["bomb-000000"]


def test_large_values_that_compress_well_come_one_at_a_time(tmp_path, small_batches):
    path, text = tmp_path / "padded.parquet", "x" * (small_batches * 3 // 4)
    columns = {"image": [image()] * 8, "text": [text] * 8}
    write_parquet(path, columns, compression="zstd", use_dictionary=False)
    with path.open("rb") as file:
        records = list(read_records(ParquetRows(file), 0, 8, list(columns), lambda row, n: str(n)))
    assert [record.fields["text"] for record in records] == [text] * 8


def test_a_dictionary_of_large_values_is_read_a_few_rows_at_a_time(tmp_path, small_batches):
    path, size = tmp_path / "large.parquet", small_batches // 3
    text = random.Random(0).randbytes(size // 2).hex()
    columns = {"image": [image()] * 8, "text": [text] * 8}
    write_parquet(path, columns, dictionary_pagesize_limit=2**30)
    with path.open("rb") as file:
        records = list(read_records(ParquetRows(file), 0, 8, list(columns), lambda row, n: str(n)))
    assert [record.fields["text"] for record in records] == [text] * 8
    assert rows_at_once(pq.ParquetFile(path), 0, list(columns)) in (2, 3)
