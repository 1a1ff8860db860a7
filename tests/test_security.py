"""What docs/security.md promises and no other test holds; and that its tests are there.

Through the command line, on what a stranger could send: checkpoints with code, addresses in
documents, Parquet metadata that asks for a pickle, keys that must stay where they are.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsieve.leftovers import scratch_folder
from mmsieve.methods.folders import bundled_folder
from tests.helpers.command_line import run_line
from tests.helpers.file_server import serve_files
from tests.helpers.shards import captions, image, write_jsonl, write_parquet, write_tar
from tests.helpers.well_behaved import KEY, good_answer

ROOT = Path(__file__).parents[1]


def test_every_promise_names_tests_that_are_there():
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    page = page.partition("## Promises")[2]
    rows = re.findall(r"^\| (?!promise )(.+) \| (.+) \|$", page, re.M)
    assert len(rows) > 20
    for promise, tests in rows:
        names = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
        assert names, f"no test: {promise}"
        for file, name in names:
            source = (ROOT / "tests" / file).read_text("utf-8")
            assert f"\ndef {name}(" in source, f"{file}::{name}"


# Checkpoints and tables of strangers


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._made,)


def test_code_in_a_checkpoint_never_runs(tmp_path):
    """What `auto_map` names is what trust_remote_code would import; pickles lie beside weights."""
    made = tmp_path / "made"
    folder = tmp_path / "model"
    like = bundled_folder("unifilter-tiny")
    assert like is not None
    shutil.copytree(like, folder)
    code = f"open({str(made)!r}, 'w')\n"
    for name in ("configuration_x", "modeling_x", "tokenization_x", "__init__", "custom"):
        (folder / f"{name}.py").write_text(code)
    theirs = {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.X"}
    for name, auto in (("config.json", theirs), ("tokenizer_config.json", {})):
        path = folder / name
        told = json.loads(path.read_text()) if path.exists() else {}
        tokenizer = {"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]}
        path.write_text(json.dumps(told | {"auto_map": auto | tokenizer}))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_bytes(pickle.dumps(Trap(made)))
    source = write_tar(tmp_path / "in" / "a.tar", captions(1))
    words = ("score", source, "--model", folder, "--workers", 0, "--quiet", "--out")
    ended = run_line(*words, tmp_path / "out")
    assert ended.code == 0, ended.err
    assert not made.exists()


def test_what_parquet_metadata_names_is_not_unpickled(tmp_path):
    """Arrow's old extension types were pickles in the metadata of a field."""
    made = tmp_path / "made"
    evil = pickle.dumps(Trap(made))
    theirs = {"ARROW:extension:name": "arrow.py_extension_type"}
    field = pa.field("score", pa.float64(), metadata={**theirs, "ARROW:extension:metadata": evil})
    schema = pa.schema([pa.field("key", pa.string()), field], metadata={"pandas": evil})
    table = pa.table({"key": ["a", "b"], "score": [0.1, 0.9]}, schema=schema)
    pq.write_table(table, tmp_path / "scores.parquet")
    for verb in (("filter", "--by", "score", "--top-count", 1), ("report",)):
        out = tmp_path / f"{verb[0]}.{'html' if verb[0] == 'report' else 'parquet'}"
        run_line(verb[0], tmp_path / "scores.parquet", *verb[1:], "--out", out)
    assert (tmp_path / "filter.parquet").exists() and not made.exists()


def test_addresses_in_samples_are_never_asked(tmp_path):
    """Nobody learns from a stranger's document who reads it, nor does it reach inner servers."""
    with serve_files({"/x.png": image()}) as server:
        address = f"{server.url}/x.png"
        about = [{"image_name": address, "raw_url": address, "matched_text_index": 0}]
        document = {"text_list": ["A text."], "url": address, "image_info": about}
        for name in ("docs", "rows"):
            (tmp_path / name).mkdir()
        write_jsonl(tmp_path / "docs" / "a.jsonl", [document])
        talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": address}]
        items = [{"id": n, "image": name, "conversations": talk} for n, name in [(0, address)]]
        (tmp_path / "qas.json").write_text(json.dumps(items))
        columns = {"image": [{"bytes": None, "path": address}], "text": [address]}
        write_parquet(tmp_path / "rows" / "a.parquet", columns)
        page = f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{address}'/></svg>".encode()
        write_tar(tmp_path / "tars" / "a.tar", [("k.jpg", page), ("k.txt", address.encode())])
        sources = {
            "docs": ("--images", tmp_path),
            "qas.json": ("--images", tmp_path),
            "rows": ("--images", tmp_path),
            "tars": (),
        }
        for name, more in sources.items():
            source, out = tmp_path / name, tmp_path / "out" / name
            for words in (("look", source), ("score", source, "--model", "rules", "--out", out)):
                ended = run_line(*words, *more)
                assert "internal error" not in ended.err, (words, ended.err)
            assert ended.out + ended.err, name
        assert server.asked == []


# Keys, and files that are nobody else's


@pytest.mark.parametrize("verb", ["enhance", "generate"])
def test_a_traceback_holds_no_key_of_a_server_that_repeats_it(
    tmp_path, server, source, verb, monkeypatch
):
    server.answer = lambda body: 400
    monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", KEY)
    zero = ("--workers", 0)
    words = {
        "enhance": ("enhance", source, "--model", f"endpoint:{server.url}/v1#aitqe", *zero),
        "generate": (
            *("generate", "captions", source, "--teacher", "openai:m", "--count", 4),
            *("--base-url", server.base_url("openai"), "--max-retries", 0),
        ),
    }[verb]
    for debug in ((), ("--debug",), ("--debug", "--log-json")):
        out = tmp_path / f"out{len(debug)}"
        ended = run_line(*words, "--out", out, *debug)
        assert ended.code == 1 and ("400" in ended.err or "refused" in ended.err)
        stored = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
        assert KEY not in ended.out + ended.err and KEY.encode() not in stored


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_no_process_of_a_run_has_the_key_in_its_command_line(tmp_path, server, source):
    """Command lines are for every user of a machine to read, environments are not."""
    seen: dict[str, bytes] = {}
    lock = Lock()

    def look(body: dict[str, Any]) -> str:
        with lock:
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    if (place / "status").read_text().find(f"PPid:\t{run.pid}\n") >= 0:
                        seen[place.name] = (place / "cmdline").read_bytes()
                except OSError:
                    continue
        return good_answer(body)

    server.answer = look
    command = ["-m", "mmsieve", "enhance", source, "--out", tmp_path / "out", "--workers", "1"]
    command += ["--model", f"endpoint:{server.url}/v1#aitqe", "--quiet"]
    environment = os.environ | {"MMSIEVE_ENDPOINT_KEY": KEY}
    with subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, env=environment) as run:
        assert run.wait() == 0
    assert seen and KEY.encode() not in b"".join(seen.values())


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def test_temporary_folders_are_their_owners_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with scratch_folder() as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_outputs_are_as_open_as_the_umask_says_and_no_more(tmp_path):
    """A key or a private sample may stand in what somebody scores: nothing is opened to others."""
    source = write_tar(tmp_path / "in" / "a.tar", captions(3))
    out = tmp_path / "out"
    before = os.umask(0o077)
    try:
        for words in (
            ("score", source, "--model", "rules", "--workers", 0, "--out", out / "t"),
            ("filter", out / "t", "--by", "num_words", "--top-count", 2, "--out", out / "d"),
            ("export", source, "--decisions", out / "d", "--out", out / "e"),
            ("report", out / "t", source, "--out", out / "page.html"),
        ):
            ended = run_line(*words)
            assert ended.code == 0, ended.err
    finally:
        os.umask(before)
    assert modes(out) == {0o600, 0o700}
