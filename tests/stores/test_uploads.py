"""Large objects, second processes and refusals, at a server that speaks S3."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.shards import captions, write_tar
from tests.stores.running import environment, serve

pytestmark = pytest.mark.stores
pytest.importorskip("moto", reason="needs moto's server: make test-stores")

PUT = """
import sys, time
from pathlib import Path
from mmsieve.stores.paths import place_of
print("begins", flush=True)
place_of("s3://bucket/large/file").put(Path(sys.argv[1]))
"""
LOOK = """
from mmsieve.locks import writing_to
from mmsieve.stores.paths import place_of
place = place_of("s3://bucket/large")
filesystem, _ = place.opened()
list_uploads = lambda: len(filesystem.list_multipart_uploads("bucket"))
print(place.exists(), list_uploads())
with writing_to(place, "score"):
    print(place.exists(), list_uploads())
"""


DIGESTS = """
import hashlib
from mmsieve.stores.paths import place_of
for path in place_of("s3://bucket").rglob("*.parquet"):
    print(path.parent.name, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
"""


def python(code: str, *words: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False)


def mmsieve(*words: object, env: dict[str, str], **more: Any) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "mmsieve", *map(str, words)]
    return subprocess.Popen(
        line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def test_a_large_file_is_seen_whole_or_not_at_all(tmp_path):
    large = tmp_path / "file"
    with large.open("wb") as file:
        file.truncate(160 << 20)
    with serve(0.0) as server:
        env = environment(server, tmp_path)
        with subprocess.Popen(
            [sys.executable, "-c", PUT, str(large)], env=env, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            looked = ""
            while "True" not in looked.splitlines()[:1] and not looked.startswith("False 1"):
                looked = python(LOOK.partition("with ")[0], env=env).stdout
                assert process.poll() is None or looked.startswith("True"), looked
            process.send_signal(signal.SIGKILL)
        assert looked.startswith("False 1")
        done = python(LOOK, env=env)
        assert done.stdout.split() == ["False", "1", "False", "0"], done.stderr
        assert python(PUT, large, env=env).returncode == 0
        assert python(LOOK, env=env).stdout.startswith("True 0")


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", captions(4))
    line = ("score", tmp_path / "in", "--model", "unifilter-tiny", "--out", "s3://bucket/t")
    with serve(0.0) as server:
        env = environment(server, tmp_path)
        first = mmsieve(*line, env=env)
        leased = "from mmsieve.stores.paths import place_of as p; print(list(p('s3://bucket').rglob('*')))"
        while ".t.leases" not in python(leased, env=env).stdout:
            time.sleep(0.05)
        said = mmsieve(*line, env=env).communicate()[1]
        assert "another run is writing there (a quality table, process" in said
        first.kill()
        first.communicate()
        again = mmsieve(*line, env=env)
        assert "4 rows of 1 shard (4 ok)" in again.communicate()[0] and again.returncode == 0


def test_several_processes_write_what_one_writes_and_are_seen(tmp_path):
    for number in range(4):
        write_tar(tmp_path / "in" / f"{number}.tar", captions(4))
    line = ("score", tmp_path / "in", "--model", "rules", "--device", "cpu", "--out")
    with serve(0.0) as server:
        env = environment(server, tmp_path)
        for out, count in (("one", "1"), ("two", "2")):
            said = mmsieve(*line, f"s3://bucket/{out}", "--devices", count, env=env).communicate()
            assert "16 rows of 4 shards (16 ok)" in said[0], said
        rows = [line.split() for line in python(DIGESTS, env=env).stdout.splitlines()]
        one, two = ([row[1:] for row in rows if row[0] == out] for out in ("one", "two"))
        assert len(one) == 4 and one == two
        seen = mmsieve("status", "s3://bucket/two", env=env).communicate()[0]
        assert seen.startswith("score is done") and "4 of 4 shards done" in seen


def test_who_is_not_let_in_is_told_so_before_anything_is_loaded(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", captions(1))
    line = ("score", tmp_path / "in", "--model", "unifilter-tiny", "--out")
    with serve(0.0) as server:
        env = environment(server, tmp_path)
        nobody = {name: value for name, value in env.items() if "AWS_" not in name}
        nobody |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
        for known, url, words in (
            (nobody, "s3://bucket/t", "give credentials by the store's usual means"),
            (env, "s3://nosuchbucket/t", "can't be written to"),
            (env, "s3://bucket", "name a folder in it"),
        ):
            ended = mmsieve(*line, url, env=known, cwd=tmp_path)
            said = ended.communicate()[1]
            assert ended.returncode == 2 and words in said and said.count("\n") == 1, said
    assert sorted(os.listdir(tmp_path)) == ["in"]  # noqa: PTH208 - names
    assert Path(tmp_path).is_dir()
