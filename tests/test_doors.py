"""Damaged files of ours, and checkpoints: one line that names the file, on the command line."""

import json
import shutil
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

import mmsieve
from mmsieve import cli
from mmsieve.errors import RequestError
from mmsieve.methods.folders import bundled_folder
from mmsieve.tables import Header
from mmsieve.validated import parse_json
from tests.helpers.shards import captions, write_tar
from tests.helpers.tables import rows_of, write_table


def fails(capsys, line: str, code: int = 2) -> str:
    """The one line that a command says, which ends with this code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(line.split())
    said = capsys.readouterr().err
    assert ended.value.code == code, said
    assert said.startswith("mmsieve: ")
    assert said.count("\n") == 1
    assert "internal error" not in said
    return said


# Tables


@pytest.fixture
def scores(tmp_path) -> Path:
    return write_table(tmp_path / "scores", {"a": rows_of("a", [1.0, 2.0, 3.0])})


def rewrite(file: Path, **columns: pa.Array) -> None:
    """Put columns into a table file, its header as it was."""
    table = pq.read_table(file)
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, file)


def not_utf8(count: int) -> pa.Array:
    plain = pa.array([b"\xff\xfe"] * count, pa.binary())
    return pa.StringArray.from_buffers(count, *plain.buffers()[1:])


READERS = [
    "filter {0} --top-fraction 0.5 --out {1}/out",
    "report {0} --out {1}/out.html",
    "evaluate {0} {1}/other --out {1}/out",
]


@pytest.mark.parametrize("line", READERS)
@pytest.mark.parametrize(
    "columns",
    [
        {"key": not_utf8(3)},
        {"key": pa.array(["x", None, "z"])},
        {"status": pa.array([1, 2, 3], pa.int32())},
        {"shard": pa.array([1, 2, 3])},
    ],
    ids=["not utf-8", "null", "status a number", "shard a number"],
)
def test_a_column_that_holds_what_cannot_be_is_one_line(tmp_path, capsys, scores, line, columns):
    write_table(tmp_path / "other", {"a": rows_of("a", [1.0, 2.0, 3.0])})
    rewrite(scores / "a.parquet", **columns)
    assert str(scores) in fails(capsys, line.format(scores, tmp_path))


def test_lists_are_no_names(tmp_path, capsys):
    columns = {"key": pa.array([["a"], ["b"]]), "score": pa.array([1.0, 2.0])}
    pq.write_table(pa.table(columns), tmp_path / "one.parquet")
    line = f"filter {tmp_path}/one.parquet --by score --top-count 1 --out {tmp_path}/out"
    assert "column key is list" in fails(capsys, line)


def test_a_score_that_is_infinite_is_no_place_on_a_page(tmp_path):
    table = write_table(tmp_path / "scores", {"a": rows_of("a", [float("inf"), 2.0, 3.0])})
    made = mmsieve.report(str(table), out=tmp_path / "out.html")
    assert '"values":[[2.0,3.0,null]]' in made.out.read_text("utf-8")


@pytest.mark.parametrize("line", READERS)
def test_a_table_that_expands_to_gigabytes_is_refused(tmp_path, capsys, line):
    rows = 20_000
    big = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 500_000])
    columns = rows_of("a", [1.0] * rows)
    for name in ("scores", "other"):
        write_table(tmp_path / name, {"a": columns})
    file = tmp_path / "scores" / "a.parquet"
    rewrite(file, key=big)
    said = fails(capsys, line.format(file.parent, tmp_path))
    assert str(file) in said
    assert "expand to" in said


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[" * 100_000,
        b"null",
        b'{"kind": 1}',
        b'{"kind":"quality","version":"0","shard":"a","size":0,"rows":3,"fingerprint":[]}',
    ],
)
def test_a_header_that_is_none_is_one_line(tmp_path, capsys, scores, header):
    file = scores / "a.parquet"
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({b"mmsieve": header}), file)
    assert str(file) in fails(capsys, f"report {scores} --out {tmp_path}/out.html")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Header.__dataclass_fields__]), JSON) | JSON)
def test_any_json_is_a_header_or_one_line(value):
    data = json.dumps(value).encode()
    try:
        found = parse_json(Path("x"), data, TypeAdapter(Header), "fix")
    except RequestError as error:
        assert str(error).startswith("x: ")
        assert "\n" not in str(error)
    else:
        assert isinstance(found.fingerprint, dict)


# Records and journals


@pytest.mark.parametrize("record", ["{", "[]", '{"request": 3}', "[" * 100_000])
def test_a_damaged_record_of_a_generation_is_one_line(tmp_path, capsys, record):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "generate.json").write_text(record)
    line = f"generate captions --teacher rendered --count 4 --out {tmp_path}/out"
    assert "generate.json" in fails(capsys, line)


@pytest.mark.parametrize(
    "metrics", ['{"accuracy": 1, "f1": 1, "count": 1e400, "confusion": []}', "[" * 100_000]
)
def test_damaged_metrics_are_one_line(tmp_path, capsys, metrics):
    (tmp_path / "metrics.json").write_text(metrics)
    fails(capsys, f"report {tmp_path}/metrics.json --out {tmp_path}/out.html")


# Checkpoints: sizes against the tensors' headers, before anything is built

MISSING = object()
VERBS = {
    "unifilter-tiny": "score {1} --model {0}",
    "aitqe-tiny": "enhance {1} --model {0}",
    "mmssr-tiny-scorer": "rate {1} --model {0}",
}


def damaged(folder: Path, name: str) -> Path:
    shutil.copytree(bundled_folder(name), folder)
    return folder / "config.json"


@pytest.fixture
def pairs(tmp_path, request) -> Path:
    """What the verb reads: caption pairs, or instruction samples."""
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
    items = tmp_path / "items.json"
    items.write_text(json.dumps([{"id": "i", "conversations": talk}]))
    tar = write_tar(tmp_path / "in.tar", captions(1))
    return items if "mmssr" in request.node.name else tar


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("hidden_size", 2**31 - 8),
        ("intermediate_size", 2**30),
        ("num_attention_heads", 3),
        ("pad_token_id", 2**31 - 1),
        ("eos_token_id", [0, 5000]),
        ("tokenizer_model_max_length", "x"),
        ("mm_hidden_size", None),
        ("rope_scaling", 3),
        ("hidden_size", MISSING),
        ("num_hidden_layers", MISSING),
        ("num_attention_heads", MISSING),
    ],
)
@pytest.mark.parametrize("name", VERBS)
def test_a_size_that_the_tensors_do_not_have_is_named(tmp_path, capsys, pairs, name, key, value):
    file = damaged(tmp_path / "model", name)
    config = json.loads(file.read_text("utf-8"))
    config |= {key: value}
    file.write_text(json.dumps({k: found for k, found in config.items() if found is not MISSING}))
    line = f"{VERBS[name]} --out {{2}}/out --workers 0"
    said = fails(capsys, line.format(file.parent, pairs, tmp_path))
    assert str(file) in said
    assert key in said


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vision_config", "num_hidden_layers", 10**9),
        ("vision_config", "image_size", 10**6),
        ("vision_config", "patch_size", 1),
        ("image", "size", 2**30),
        ("image", "resample", 99),
        ("image", "std", [0, 1, 1]),
    ],
)
@pytest.mark.parametrize("name", VERBS)
def test_a_size_of_the_tower_is_named(tmp_path, capsys, pairs, name, part, key, value):
    file = damaged(tmp_path / "model", name)
    config = json.loads(file.read_text("utf-8"))
    config["mmsieve"][part][key] = value
    file.write_text(json.dumps(config))
    line = f"{VERBS[name]} --out {{2}}/out --workers 0"
    assert str(file) in fails(capsys, line.format(file.parent, pairs, tmp_path))


def test_an_id_that_has_no_embedding_is_named(tmp_path, capsys, pairs):
    file = damaged(tmp_path / "model", "unifilter-tiny").with_name("tokenizer.json")
    tokenizer = json.loads(file.read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] = 2**31
    file.write_text(json.dumps(tokenizer))
    said = fails(capsys, f"score {pairs} --model {file.parent} --out {tmp_path}/out --workers 0")
    assert str(2**31) in said


@pytest.mark.parametrize("size", [0, 5, 100, 200_000])
def test_weights_that_are_cut_off_are_named(tmp_path, capsys, pairs, size):
    file = damaged(tmp_path / "model", "unifilter-tiny").with_name("model.safetensors")
    file.write_bytes(file.read_bytes()[:size])
    said = fails(capsys, f"score {pairs} --model {file.parent} --out {tmp_path}/out --workers 0")
    assert str(file) in said


# Whatever else goes wrong


class PanicError(BaseException):
    """What a library written in Rust raises: no Exception."""


@pytest.mark.parametrize("kind", [RuntimeError, PanicError, RecursionError])
@pytest.mark.parametrize("debug", [False, True])
def test_what_nobody_foresaw_is_one_line(capsys, monkeypatch, kind, debug):
    def break_down(result: object, debug: bool) -> int:
        raise kind("out\nof order")

    monkeypatch.setattr(cli, "_show", break_down)
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", *["--debug"] * debug])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"internal error: {kind.__name__}: out of order; run again with --debug" in said
    assert ("Traceback" in said) == debug
    assert debug or said.count("\n") == 1
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["urls"]["Issues"] == cli.ISSUES
    assert cli.ISSUES in said
