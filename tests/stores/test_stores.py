"""Outputs and inputs at stores, through the verbs; `memory://` is a store like the others."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import polars as pl
import pytest

from mmsieve import decisions, tables
from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.methods.load import find_folder
from mmsieve.outputs import check_name
from mmsieve.read import ImageFolder
from mmsieve.stores import asking, folders
from mmsieve.stores.paths import StorePath, is_stored, place_of
from tests.helpers.command_line import Ended, run_line
from tests.helpers.shards import captions, write_tar
from tests.helpers.tables import rows_of, write_table

SCORES = {"a/0": rows_of("a/0", [0.1, 0.5, None]), "a/1": rows_of("a/1", [0.9, 0.8])}


class GoneError(Exception):
    """An answer of a web server, as aiohttp raises it."""

    status = 410


@pytest.fixture
def store(monkeypatch, tmp_path) -> Iterator[str]:
    """A store that is empty, and a working folder in which nothing may be left."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield "memory://bucket"
    assert not list(here.iterdir())


@pytest.fixture
def dies(monkeypatch):
    """Lets the n-th next change of the store be an interrupt before it is made; None: no more."""
    left: list[int | None] = [None]
    changes = {name: getattr(StorePath, name) for name in ("put", "write_bytes", "unlink")}

    def counted(name):
        def change(path, *given, **more):
            if left[0] is not None and not path.parent.name.endswith((".leases", ".run")):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return changes[name](path, *given, **more)

        return change

    for name in changes:
        monkeypatch.setattr(StorePath, name, counted(name))

    def after(count: int | None) -> None:
        left[0] = count

    return after


def content(url: str) -> dict[str, bytes]:
    """The objects below a URL, but for receipts."""
    folder = place_of(url)
    assert is_stored(folder)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.sizes()}
    said = (folders.RECEIPT, folders.MAKING)
    return {name: data for name, data in found.items() if name.split("/")[0] not in said}


def local_content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run(*words: object) -> Ended:
    ended = run_line(*words)
    assert ended.code == 0, ended.err
    return ended


def test_a_path_is_a_place_at_a_store_where_it_is_a_url():
    for given in ("s3://b/x/y.parquet", Path("s3://b/x/y.parquet"), "s3://b/x/./y.parquet"):
        path = place_of(given)
        assert is_stored(path) and str(path) == "s3://b/x/y.parquet"
    assert (path.name, path.stem, path.suffix) == ("y.parquet", "y", ".parquet")
    assert list(map(str, path.parents)) == ["s3://b/x", "s3://b"]
    assert path.with_suffix(".npy") == path.parent / "y.npy" and path.parent < path
    for given in ("x/y", "/x", "c:/x", "nosuch://b/x", "a:b", "~/x"):
        assert place_of(given) == Path(given)
    assert place_of("file:///x/y") == Path("/x/y") == place_of(Path("file:///x/y"))
    with pytest.raises(RequestError, match=r"leave out \.\."):
        place_of("s3://b/../x")
    with pytest.raises(TypeError):
        open(path)  # noqa: PTH123, SIM115 - what knows of no stores makes no folder s3:


def test_filter_at_a_store_makes_what_it_makes_here(store, tmp_path):
    write_table(tmp_path / "scores", SCORES)
    write_table(place_of(f"{store}/scores"), SCORES)
    assert content(f"{store}/scores") == local_content(tmp_path / "scores")
    for start in (tmp_path, store):
        cut = ("filter", f"{start}/scores", "--top-fraction", "0.5", "--out")
        run(*cut, f"{start}/kept")
        run(*cut, f"{start}/kept.parquet")
    assert content(f"{store}/kept") == local_content(tmp_path / "kept")
    one = place_of(f"{store}/kept.parquet").read_bytes()
    assert one == (tmp_path / "kept.parquet").read_bytes()
    again = run(*cut, f"{store}/kept")
    assert "made again" in again.out
    other = run_line("filter", f"{store}/scores", "--min-score", "0.2", "--out", f"{store}/kept")
    assert other.code == 2 and "made with another min_score" in other.err
    glob = run("filter", f"{store}/scores/*/*.parquet", "--min-score", "0.2", "--out", f"{store}/g")
    assert "3 of 5 rows kept" in glob.out
    page = run("report", f"{store}/scores", f"{store}/kept", "--out", f"{store}/page.html")
    assert f"{store}/page.html" in page.out
    assert b"<title>mmsieve report</title>" in place_of(f"{store}/page.html").read_bytes()


def test_decisions_that_are_not_whole_are_no_decisions(store, dies, tmp_path):
    write_table(place_of(f"{store}/scores"), SCORES)
    first = ("filter", f"{store}/scores", "--min-score", "0.2", "--out", f"{store}/kept")
    other = ("filter", f"{store}/scores", "--min-score", "0.85", "--overwrite", *first[-2:])
    run(*first)
    before = content(f"{store}/kept")
    run(*other)
    after = content(f"{store}/kept")
    seen = set()
    for count in (0, 1, 4, 9, 20):
        run(*first, "--overwrite")
        dies(count)
        ended = run_line(*other)
        dies(None)
        try:
            found = decisions.Decisions(place_of(f"{store}/kept"))
            kept = tuple(len(found.kept(shard)) for shard in found.shards)
        except RequestError as error:
            assert "is not whole" in str(error)
            kept = None
        seen.add((ended.code, kept))
        run(*other)
        assert content(f"{store}/kept") == after != before
    assert seen == {(130, (1, 2)), (130, None), (130, (0, 1)), (0, (0, 1))}


def test_what_a_receipt_names_must_be_there(store):
    write_table(place_of(f"{store}/scores"), SCORES)
    run("filter", f"{store}/scores", "--min-score", "0.2", "--out", f"{store}/kept")
    kept = place_of(f"{store}/kept")
    write_table(kept, {"b/2": rows_of("b/2", [0.1])})
    assert sorted(tables.table_files(kept)) == ["a/0", "a/1"]
    (kept / "a/0.parquet").unlink()
    with pytest.raises(RequestError, match="not as it was written"):
        tables.table_files(kept)


def test_score_goes_on_at_a_store(store, dies, tmp_path):
    for number in range(3):
        write_tar(tmp_path / "in" / f"{number}.tar", captions(4))
    line = ("score", tmp_path / "in", "--model", "rules", "--workers", "0", "--out")
    run(*line, tmp_path / "t")
    dies(1)
    assert run_line(*line, f"{store}/t").code == 130
    dies(None)
    assert len(content(f"{store}/t")) == 1
    assert "resumed: 1 shard was done before" in run(*line, f"{store}/t").out
    assert content(f"{store}/t") == local_content(tmp_path / "t")
    assert "nothing was written" in run(*line, f"{store}/t").out


def test_an_export_to_a_store_is_that_of_here_wherever_it_was_killed(store, dies, tmp_path):
    for number in range(2):
        write_tar(tmp_path / "in" / f"{number}.tar", captions(4))
    run("score", tmp_path / "in", "--model", "rules", "--workers", "0", "--out", f"{store}/t")
    run("filter", f"{store}/t", "--where", "key <> '0001'", "--out", f"{store}/kept")
    line = ("export", tmp_path / "in", "--decisions", f"{store}/kept", "--workers", "1", "--out")
    run(*line, tmp_path / "out")
    wanted = {n: d for n, d in local_content(tmp_path / "out").items() if not n.startswith(".")}
    count, code = 0, 130
    while code == 130:
        place_of(f"{store}/out").remove()
        dies(count)
        code = run_line(*line, f"{store}/out").code
        dies(None)
        run(*line, f"{store}/out")
        made = content(f"{store}/out")
        assert {n: d for n, d in made.items() if not n.startswith(".")} == wanted
        count += 4
    assert count > 7


def test_evaluate_reads_tables_of_a_store(store):
    write_table(place_of(f"{store}/one"), SCORES)
    write_table(place_of(f"{store}/two"), SCORES)
    run("evaluate", f"{store}/one", f"{store}/two", "--out", f"{store}/both")
    metrics = json.loads(place_of(f"{store}/both/metrics.json").read_bytes())
    assert metrics["spearman"] == 1.0 and metrics["count"] == 4


def test_a_large_object_is_read_by_ranges(store, monkeypatch):
    monkeypatch.setattr("mmsieve.stores.paths.SMALL", 100)
    write_table(place_of(f"{store}/scores"), SCORES)
    (table,) = tables.open_tables([f"{store}/scores"])
    read = pl.concat(frame for _, frame in table.batches(["key"]))
    assert read["key"].to_list() == [f"a/0-k{n}" for n in range(3)] + [
        f"a/1-k{n}" for n in range(2)
    ]


def test_what_cannot_be_written_there_is_refused_before_anything_is_loaded(store, tmp_path):
    source = write_tar(tmp_path / "in.tar", captions(1))
    score = ("score", source, "--model", "none", "--out")
    data = ("evaluate", "--model", "unifilter-tiny", "--data", "memory://b/x.json", "--out", "o")
    for words, said in (
        ((*score, "https://host/t"), "can't be written to"),
        ((*score, "hf://datasets/a/b"), "can't be written to"),
        ((*score, "nosuch://b/t"), "only local or mounted folders"),
        (("demo", "--out", "memory://b/x"), "only local or mounted folders"),
        (data, "only local or mounted folders"),
    ):
        ended = run_line(*words)
        assert ended.code == 2 and said in ended.err and ended.err.count("\n") == 1


def test_a_request_that_is_carried_out_late_changes_nothing(store, tmp_path, monkeypatch):
    """It was sent again as no answer came, and the store still had it."""
    for number in range(3):
        (tmp_path / f"{number}.txt").write_bytes(b"x" * number)
    requests = []

    def kept(path, data, write=StorePath.write_bytes):
        requests.append((path, data))
        write(path, data)

    monkeypatch.setattr(StorePath, "write_bytes", kept)
    place = place_of(f"{store}/kept")
    for _ in range(2):  # two runs, one after the other
        folders.put_folder(tmp_path, place)
    whole = folders.files_of(place)
    assert len(whole) == 3 and len(requests) >= 4
    for path, data in requests[-2:] + requests[:1]:
        StorePath.write_bytes(path, data)
        assert folders.files_of(place) == whole and not folders.is_in_the_making(place)


def test_who_takes_over_from_a_killed_run_removes_what_it_had_put(store, dies, tmp_path):
    place = place_of(f"{store}/kept")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    dies(2)
    with pytest.raises(KeyboardInterrupt):
        folders.put_folder(tmp_path / "a", place)
    dies(None)
    assert folders.is_in_the_making(place)
    with pytest.raises(RequestError, match="is not whole"):
        folders.files_of(place)
    folders.put_folder(tmp_path / "b", place)
    assert not folders.is_in_the_making(place)
    assert content(f"{store}/kept") == {"b.txt": b"b"}


def test_what_grows_here_is_put_at_the_store_in_the_end(store, dies, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    line = ("generate", "captions", "--teacher", "rendered", "--count", "4", "--seed", "1", "--out")
    run(*line, tmp_path / "pool")
    dies(3)
    assert run_line(*line, f"{store}/pool").code == 130
    dies(None)
    assert folders.is_in_the_making(place_of(f"{store}/pool"))
    ended = run(*line, f"{store}/pool")
    assert ended.out.endswith(f"{store}/pool\n")
    assert content(f"{store}/pool") == local_content(tmp_path / "pool")
    assert "done before" in run(*line, f"{store}/pool").out
    other = run_line(*line[:-2], "2", "--out", f"{store}/pool")
    assert other.code == 2 and f"{store}/pool was made with another seed" in other.err
    run(*line[:-2], "2", "--overwrite", "--out", f"{store}/pool")
    assert content(f"{store}/pool") != local_content(tmp_path / "pool")
    assert not list((tmp_path / "cache" / "mmsieve" / "work").iterdir())


def test_a_model_at_a_store_is_fetched_once_for_each_content(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = place_of(f"{store}/models/mine")
    assert is_stored(model)
    for name in ("config.json", "model.safetensors", "code.py", "weights.bin"):
        (model / name).write_bytes(name.encode())
    first = find_folder(f"{store}/models/mine")
    assert local_content(first).keys() == {"config.json", "model.safetensors"}
    assert first.name == "mine" and find_folder(f"{store}/models/mine") == first
    (model / "config.json").write_bytes(b"another one")
    second = find_folder(f"{store}/models/mine")
    assert (second / "config.json").read_bytes() == b"another one" and second != first


def test_a_store_is_asked_again_but_not_where_it_has_answered(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0)
    for error, times in ((OSError(5, "busy"), 4), (TimeoutError(), 4), (PermissionError(), 1)):
        calls = []

        def call(error=error, calls=calls):
            calls.append(1)
            raise error

        with pytest.raises(OSError, match=r"s3://b/x: "):
            asking.ask("s3://key:secret@b/x", call)
        assert len(calls) == times
    answers = iter([OSError("cut"), 7])

    def once():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert asking.ask("s3://b/x", once) == 7


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("no answer"), ShardError),
        (TimeoutError(), ShardError),
        (GoneError("410, message='Gone'"), SampleError),
        (ValueError("Parameter validation failed"), SampleError),
        (FileNotFoundError(2, "no such object"), SampleError),
    ],
)
def test_an_image_that_a_store_has_not_is_missing_and_no_answer_is_none(
    store, monkeypatch, error, kind
):
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0)

    def fail(path, **options):
        raise error

    monkeypatch.setattr(fsspec.filesystem("memory"), "info", fail)
    with pytest.raises(kind, match="can't be read"):
        ImageFolder(store).read("a.jpg")


def test_a_name_that_no_store_has_is_a_missing_image(store):
    with pytest.raises(SampleError, match="no store has so long a name"):
        ImageFolder(store).read("a" * 1100 + ".jpg")


def test_a_refused_store_is_no_empty_one(store, monkeypatch):
    def refuse(*given, **more):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "info", refuse)
    with pytest.raises(OSError, match="Access Denied"):
        place_of(f"{store}/x").exists()
    with pytest.raises(RequestError, match="can't be reached"):
        check_name(place_of(f"{store}/x"))
