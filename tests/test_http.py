"""HTTP sources through the command line: busy servers, refusals, no ranges, wrong lengths."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import polars as pl
import pytest

from mmsieve import http
from mmsieve.cli import main
from mmsieve.tables import table_files
from tests.helpers.file_server import serve_files
from tests.helpers.shards import captions, image, tar_bytes, write_parquet

pytest.importorskip("aiohttp", reason="needs the extra [http]")

SIGNED = "?X-Amz-Signature=f00d&X-Amz-Date=20260101"
AT_ONCE = {"Retry-After": "0"}


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    rows = write_parquet(tmp_path / "p", {"image": [{"bytes": image(1)}] * 9, "text": ["A"] * 9})
    lines = "".join(json.dumps({"text_list": ["A"], "image_info": []}) + "\n" for _ in range(9))
    tar = tar_bytes(captions(3))
    return {"/d/a.tar": tar, "/d/b.parquet": rows.read_bytes(), "/d/c.jsonl": lines.encode()}


@pytest.fixture
def score(tmp_path, capsys):
    """Scores sources by the rules; returns exit code, output, errors, table files."""

    def run(*sources: str, name: str = "out") -> tuple[int, str, str, list[str]]:
        out = tmp_path / name
        words = ["score", *sources, "--model", "rules", "--out", str(out), "--quiet"]
        words += ["--images", str(tmp_path)]
        with pytest.raises(SystemExit) as ended:
            main([*words, "--workers", "0"])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err, list(table_files(out))

    return run


def test_all_kinds_of_files_with_and_without_ranges(files, score, tmp_path):
    for ranges in (True, False):
        with serve_files(files, ranges=ranges) as server:
            urls = [f"{server.url}{path}{SIGNED}" for path in files]
            code, _, err, _ = score(*urls, name=str(ranges))
            assert (code, err) == (0, "")
    assert set(table_files(tmp_path / "True")) == {"a", "b-000000", "c-000000"}
    pairs = zip(*(table_files(tmp_path / name).values() for name in ("True", "False")), strict=True)
    assert all(pl.read_parquet(one).equals(pl.read_parquet(other)) for one, other in pairs)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(files, score, status):
    with serve_files(files, statuses=[status] * 4, headers=AT_ONCE) as server:
        assert score(f"{server.url}/d/a.tar")[0] == 0
        assert server.asked[:5] == ["HEAD /d/a.tar"] * 5


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "403 Forbidden: the address is not for everybody, or its signature has expired"),
        (401, "401 Unauthorized: it wants a login"),
        (429, "429 Too Many Requests, also when it is asked again: too many requests"),
        (503, "503 Service Unavailable, also when it is asked again"),
        (500, "500 Internal Server Error"),
    ],
)
def test_what_a_server_answers_is_said(files, score, status, said):
    with serve_files(files, always=status, headers=AT_ONCE) as server:
        code, out, err, _ = score(f"{server.url}/d/a.tar{SIGNED}")
    assert code == 2 and said in err and "f00d" not in out + err


def test_a_file_that_is_not_there(files, score):
    with serve_files(files) as server:
        code, _, err, _ = score(f"{server.url}/d/x.tar")
    assert code == 2 and "no such file" in err


def test_a_server_that_nobody_runs(score):
    code, _, err, _ = score("http://127.0.0.1:9/x.tar")
    assert code == 2 and "can't be listed: " in err and "connect" in err.lower()


def test_a_shard_that_fails_while_others_are_done(files, score):
    with serve_files(files | {"/d/z.tar": files["/d/a.tar"]}, missing=0) as server:
        urls = [f"{server.url}/d/{name}.tar?sig=s3cret" for name in ("a", "z")]
        server.statuses = [200, 200, 403]
        code, out, err, written = score(*urls)
        assert code == 1 and "shard a: can't be fetched: the server answers 403" in err
        assert written == ["z"] and "s3cret" not in out + err
        assert score(*(url.replace("s3cret", "fresh") for url in urls))[0] == 0


def test_fewer_bytes_than_announced_are_said(files, score):
    with serve_files(files, missing=7) as server:
        code, _, err, written = score(f"{server.url}/d/a.tar")
    assert code == 1 and written == []
    assert "can't be fetched" in err and "Not enough data" in err


def test_a_file_of_another_length_than_listed_is_said(files, score):
    with serve_files(files) as server:
        whole = dict(files)
        server.files = {"/d/a.tar": whole["/d/a.tar"] + bytes(512)}

        class Shrinking(dict):
            def get(self, path):
                return whole[path] if server.asked[-1].startswith("GET") else super().get(path)

        server.files = Shrinking(server.files)
        code, _, err, written = score(f"{server.url}/d/a.tar")
    assert code == 1 and written == [] and "bytes came, of" in err


def test_without_ranges_and_size_only_tars_are_read(files, score):
    with serve_files(files, ranges=False, says_size=False) as server:
        assert score(f"{server.url}/d/a.tar", name="tar")[0] == 0
        code, _, err, _ = score(f"{server.url}/d/b.parquet")
    assert code == 1 and "sends no parts of a file" in err and "download it" in err


def waits(*retry_after: str | None, status: int = 429) -> list[float]:
    """Seconds between requests to a server that never has the time."""
    answers = iter(retry_after)
    paused: list[float] = []

    async def send(request):
        after = next(answers, None)
        headers = {} if after is None else {"Retry-After": after}
        return SimpleNamespace(status=status, headers=headers, release=lambda: None)

    async def pause(seconds):
        paused.append(seconds)

    asyncio.run(http.ask_again(None, send, pause))
    return paused


def test_waits_grow_are_bounded_and_obey_the_server():
    grown = waits()
    assert [low <= wait <= 1.5 * low for low, wait in zip((0.5, 1, 2, 4), grown, strict=True)]
    assert 3 <= waits("3")[0] <= 4.5
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 <= waits(soon)[0] <= 45
    assert waits("3600") == [] and waits(status=403) == []
    assert 0.5 <= waits("when I like")[0] <= 0.75
