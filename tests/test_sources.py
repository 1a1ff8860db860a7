"""SOURCE strings: what they name, what is left alone, and one-line errors that say the fix."""

import os
import re
import tomllib
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsieve import sources
from mmsieve.errors import RequestError, ShardError
from mmsieve.read import ReadOptions
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sources import Shard, find_files, local_path, take_part
from mmsieve.stores import asking
from tests.helpers.shards import (
    captions,
    image,
    read,
    tar_bytes,
    write_jsonl,
    write_parquet,
    write_tar,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("cc/00000.tar", "cc/00001.tar", "cc/00000.parquet", "cc/00000_stats.json"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "data"


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def names(*patterns: str | Path) -> list[str]:
    return [shard.name for shard in find_files([str(pattern) for pattern in patterns]).files]


def refused(*patterns: str | Path) -> str:
    with pytest.raises(RequestError) as error:
        names(*patterns)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_paths(folder, monkeypatch):
    assert names(folder / "cc" / "00000.tar") == ["00000"]
    monkeypatch.chdir(folder)
    relative = ["cc/00000.tar", "./cc/00000.tar", "cc//00000.tar", "cc/../cc/00000.tar"]
    found = find_files([*relative, str(folder / "cc/00000.tar"), f"file://{folder}/cc/00000.tar"])
    assert [shard.url for shard in found.files] == [str(folder / "cc/00000.tar")]
    monkeypatch.setenv("HOME", str(folder))
    assert names("~/cc/00001.tar") == names("~/cc/0000{1..1}.tar") == ["00001"]


def test_dots_behind_a_link_are_those_of_its_target(tmp_path):
    touch(tmp_path / "far" / "a.tar")
    (tmp_path / "far" / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "sub")
    found = find_files([f"{tmp_path}/link/../a.tar"])
    assert found.files[0].url == str(tmp_path / "far" / "a.tar")


def test_a_folder_of_tars_leaves_sidecars_alone_and_says_so(folder):
    found = find_files([str(folder)])
    assert [shard.name for shard in found.files] == ["00000", "00001"]
    assert found.notes == (f"{folder}: left alone beside the shards: 1 .json, 1 .parquet",)


def test_a_folder_without_tars(tmp_path):
    for name in ("a.parquet", "b.jsonl", "README.md", "LICENSE"):
        touch(tmp_path / name)
    found = find_files([str(tmp_path)])
    assert [shard.name for shard in found.files] == ["a", "b"]
    assert "1 .md, 1 no suffix" in found.notes[0]


def test_globs(folder):
    touch(folder / "deep/er/00002.tar")
    assert names(folder / "cc" / "*.tar") == ["00000", "00001"]
    assert names(folder / "*" / "0000?.tar") == ["00000", "00001"]
    assert names(folder / "**" / "*.tar") == ["cc/00000", "cc/00001", "deep/er/00002"]
    assert names(folder / "cc" / "0000[01].tar") == ["00000", "00001"]
    assert names(folder / "cc" / "*.parquet") == ["00000"]
    assert names(folder / "*") == ["cc/00000", "cc/00001", "deep/er/00002"]


def test_braces(folder):
    assert names(f"{folder}/cc/{{00000..00001}}.tar") == ["00000", "00001"]
    assert names(f"{folder}/cc/0000{{0,1}}.tar") == ["00000", "00001"]
    assert names(f"{folder}/{{cc,cc}}/0000{{{{0..0}},1}}.tar") == ["00000", "00001"]


def test_what_a_brace_pattern_misses_is_named(folder):
    message = refused(f"{folder}/cc/{{00000..00003}}.tar")
    assert "2 of 4 files don't exist" in message and "00002.tar" in message and "glob" in message
    assert "unbalanced braces" in refused(f"{folder}/cc/{{00000..00003.tar")
    for many in ("{0..99999999999}", "{0..99999}{0..99999}", "{99999999999..0..2}"):
        assert "more than" in refused(f"{folder}/{many}.tar")


def test_names_that_hold_signs_of_patterns(tmp_path):
    for name in ("a[1].tar", "b{1,2}.tar", "c?.tar", "d*.tar", "e#1.tar", "f 1.tar"):
        touch(tmp_path / name)
        assert names(tmp_path / name) == [name.removesuffix(".tar")]


def test_names_mirror_the_paths_below_the_common_parent(tmp_path):
    paths = [touch(tmp_path / name) for name in ("a/x/1.tar", "a/y/1.tar", "a/b.c.tar")]
    assert names(*paths) == ["b.c", "x/1", "y/1"]
    assert names(paths[0]) == ["1"]
    assert names(tmp_path / "a", paths[0]) == ["b.c", "x/1", "y/1"]
    assert names(touch(tmp_path / "ab" / "1.TAR"), paths[0]) == ["a/x/1", "ab/1"]


def test_names_that_would_share_a_table(tmp_path):
    both = [touch(tmp_path / name) for name in ("a.tar", "a.TAR")]
    assert "would share a table" in refused(*both)
    both = [touch(tmp_path / name) for name in ("b.parquet", "b.jsonl")]
    assert "would share a table" in refused(*both)
    touch(tmp_path / "c-000000.tar")
    write_parquet(tmp_path / "c.parquet", {"image": [b""], "text": [""]})
    found = find_files([str(tmp_path / "c-000000.tar"), str(tmp_path / "c.parquet")])
    with pytest.raises(RequestError, match="would share a table"):
        split_files(found.files, ReadOptions())


@pytest.mark.parametrize("name", [".a.tar", "new\nline.tar", "b\udcff.tar"])
def test_names_that_no_table_can_have(tmp_path, name):
    assert "rename it" in refused(touch(tmp_path / name))


def test_hidden_files_are_no_data(folder):
    for name in (".tmp/1.tar", "cc/.00002.tar.part", "cc/._00000.tar", ".git/x.tar"):
        touch(folder / name)
    expected = ["00000", "00001"]
    assert names(folder) == names(folder / "cc/*.tar") == names(folder / "**/*.tar") == expected


def test_links_to_files_are_followed_to_folders_not(tmp_path):
    blobs = write_tar(tmp_path / "blobs" / "1f2e", captions(1))
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "a.tar").symlink_to(blobs)
    (hub / "loop").symlink_to(hub)
    found = find_files([str(hub)])
    assert [(s.name, s.size) for s in found.files] == [("a", blobs.stat().st_size)]
    assert "1 links to folders" in found.notes[0]
    assert names(hub / "*.tar") == ["a"] and read(hub).statuses == ["ok"]


def test_a_link_that_leads_nowhere_is_a_shard_that_fails(tmp_path):
    write_tar(tmp_path / "a.tar", captions(1))
    (tmp_path / "b.tar").symlink_to(tmp_path / "gone")
    found = read(tmp_path)
    assert found.statuses == ["ok"] and "No such file" in found.problems[0]


def test_pipes_are_no_files(folder):
    os.mkfifo(folder / "cc" / "9.tar")
    assert names(folder) == ["00000", "00001"]
    assert "not a regular file" in refused(folder / "cc" / "9.tar")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing.tar", "no such file"),
        ("nothing", "no such file"),
        ("cc/00000.tar/x.tar", "no such file"),
        ("cc/*.zip", "nothing there that is read (.tar, .parquet, .jsonl, .arrow"),
        ("empty", "nothing there that is read"),
        ("cc/notes.txt", "not a file that is read (.tar, .parquet, .jsonl, .arrow"),
        ("packed.zip", "unpack it first"),
    ],
)
def test_sources_that_name_nothing_readable(folder, pattern, message):
    (folder / "empty").mkdir()
    touch(folder / "packed.zip")
    touch(folder / "cc/notes.txt")
    assert message in refused(folder / pattern)


@pytest.mark.parametrize("patterns", [[], [""], ["  "]])
def test_no_source(patterns):
    assert "SOURCE" in refused(*patterns)


def test_a_server_that_is_asked_at_once_and_not_there():
    said = refused("ftp://me:secret@127.0.0.1:9/a.tar")
    assert said.startswith("ftp://127.0.0.1:9/a.tar: can't be reached: ")


def test_unknown_protocol():
    assert "s3://" in refused("nosuch://bucket/a.tar")


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("s3://bucket/a.tar", "pip install 'mmsieve[s3]'"),
        ("gs://bucket/{0..3}.tar", "pip install 'mmsieve[gcs]'"),
        ("https://example.org/a.tar", "pip install 'mmsieve[http]'"),
        ("dropbox://a.tar", "install this and that"),
    ],
)
def test_a_missing_extra_is_named(url, fix, monkeypatch):
    def fail(url, **options):
        raise ImportError("install this\nand that")

    monkeypatch.setattr(asking, "url_to_fs", fail)
    assert refused(url).endswith(fix)


def test_every_extra_that_is_named_exists():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    files = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "mmsieve").rglob("*.py")]
    named = re.findall(r"mmsieve\[([\w,]+)\]", "".join(file.read_text("utf-8") for file in files))
    assert {name for names in named for name in names.split(",")} <= set(
        project["optional-dependencies"]
    )


def test_any_error_of_a_filesystem_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no\ncredentials")

    monkeypatch.setattr(sources, "_find", fail)
    assert refused("a.tar") == "a.tar: can't be listed: no credentials"


def test_a_folder_that_can_not_be_listed_is_no_gap_in_the_data(folder, monkeypatch):
    original = os.scandir

    def scandir(path):
        if str(path).endswith("cc"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "can't be listed" in refused(folder)


def test_remote_tars(memory):
    for name in ("b/x/0.tar", "b/x/1.tar", "b/y/0.tar", "b/y/0.json"):
        memory.pipe(f"/{name}", tar_bytes(captions(2)))
    assert names("memory://b") == ["x/0", "x/1", "y/0"]
    assert names("memory://b/*/0.tar") == ["x/0", "y/0"]
    assert names("memory://b/x/{0..1}.tar") == names("memory://b/x/*.tar") == ["0", "1"]
    assert "no such file" in refused("memory://b/x/2.tar")
    assert read("memory://b/x").keys == ["0000", "0001"] * 2
    shard = find_files(["memory://b/x/0.tar"]).files[0]
    assert (shard.suffix, shard.stem, shard.size) == (".tar", "0", len(tar_bytes(captions(2))))
    with local_path(shard) as path:
        copy = Path(path)
        assert copy.read_bytes() == tar_bytes(captions(2))
    assert not copy.exists()


def test_remote_and_local_together(memory, folder):
    memory.pipe("/b/0.tar", b"")
    found = names(folder / "cc" / "00000.tar", "memory://b/0.tar")
    assert found == [str(folder / "cc/00000").removeprefix("/"), "b/0"]


def test_remote_rows(memory, tmp_path):
    table = pa.table({"image": [image()] * 3, "text": ["t"] * 3})
    with memory.open("/r/a.parquet", "wb") as file:
        pq.write_table(table, file)
    lines = write_jsonl(tmp_path / "l.jsonl", [{"text_list": ["a"]}] * 3)
    memory.pipe("/r/b.jsonl", lines.read_bytes())
    found = read("memory://r", images=tmp_path)
    assert found.statuses == ["ok"] * 6 and found.keys[3] == "b-000000000"


def test_a_remote_file_that_is_gone_is_the_shards_failure(memory):
    for suffix in ("tar", "parquet", "jsonl"):
        shard = Shard(f"memory://gone/a.{suffix}", "a", 1)
        options = ReadOptions(images=Path())
        with pytest.raises(ShardError), open_shard(shard, options):
            pass


def test_remote_names_that_lead_out_of_the_table(monkeypatch):
    found = sources.Listing({"s3://b/../../x.tar": 1})
    monkeypatch.setattr(sources, "list_files", lambda pattern: found)
    assert "rename it" in refused("s3://b/x.tar")


def test_signed_addresses():
    url = "https://host/d/0001.tar?X-Signature=a/b.c#part"
    assert Shard(url, "", 0).suffix == ".tar" and Shard(url, "", 0).stem == "0001"
    shards = list(sources.name_shards({url: 1, "https://host/d/0002.tar?k=v": 1}))
    assert [shard.name for shard in shards] == ["0001", "0002"]


def test_parts_share_the_sorted_list():
    shards = [Shard(f"{n}.tar", str(n), 0) for n in range(7)]
    parts = [take_part(shards, f"{n}/3") for n in range(3)]
    assert sorted(s.url for part in parts for s in part) == [s.url for s in shards]
    assert [s.name for s in parts[1]] == ["1", "4"]
    assert take_part(shards, None) == shards and take_part(shards[:1], "5/8") == []


@pytest.mark.parametrize("part", ["", "1", "3/3", "0/0", "-1/2", "a/b", "1/2/3", "1.0/2"])
def test_parts_that_are_none(part):
    with pytest.raises(RequestError, match="from 0 to N-1"):
        take_part([], part)
