"""Memory: said before a model loads, taken once while it does, one line where it is too little."""

import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import mmsieve
from mmsieve import GenerateOptions
from mmsieve.cli import main
from mmsieve.errors import RequestError
from mmsieve.methods.folders import bundled_folder, read_tensors, stored_tensors
from mmsieve.methods.mmssr import runner as mmssr_runner
from mmsieve.tables import table_files
from tests.helpers.tiny import edit_json
from tests.helpers.towers import make_clip

ESTIMATE = re.compile(
    r"memory of cpu: about ([\d.]+) GB of \d+ GB in float32 \(weights [\d.]+ GB, (.*)\), for .*"
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Captions as shards and as a training file, and instruction samples."""
    out = tmp_path_factory.mktemp("drawn")
    options = GenerateOptions(teacher="rendered", count=24, seed=1, quiet=True)
    mmsieve.generate_captions(
        out=out / "captions",
        options=GenerateOptions(teacher="rendered", count=24, seed=1, shards=True, quiet=True),
    )
    mmsieve.generate_ratings(out=out / "items", options=options)
    return out


def run(command: str, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


RATE = "rate {drawn}/items/qas.json --images {drawn}/items --model mmssr-tiny-scorer"
BOTH = f"{RATE} --styler mmssr-tiny-styler"


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("score {drawn}/captions/shards --model unifilter-tiny", "activations"),
        ("score {drawn}/captions/shards --model text-only:unifilter-tiny", "activations"),
        ("score {drawn}/captions/shards --model clip:{clip}", "activations"),
        ("enhance {drawn}/captions/shards --model aitqe-tiny", "keys and values"),
        (
            "enhance {drawn}/captions/shards --model aitqe-tiny --accept-if-better unifilter-tiny",
            "keys and values",
        ),
        (RATE, "keys and values"),
        (BOTH, "keys and values"),
        ("evaluate --model unifilter-tiny --data {drawn}/captions/train.json", "activations"),
        ("train projector unifilter-tiny --data {drawn}/captions/train.json", "gradients"),
        ("train classifier unifilter-tiny", "optimiser"),
        ("train rater mmssr-tiny-scorer", "optimiser"),
        ("train enhancer aitqe-tiny", "optimiser"),
        ("train classifier unifilter-tiny --start-from unifilter-tiny", "optimiser"),
        (
            "generate captions {drawn}/captions/images --teacher openai:gpt-4o --count 8"
            " --diversify 2 --diversify-model {clip}",
            "activations",
        ),
    ],
)
def test_a_dry_run_says_what_memory_it_takes(command, parts, drawn, tmp_path, capsys):
    clip = make_clip(tmp_path / "clip", "clip") if "{clip}" in command else ""
    command = command.format(drawn=drawn, clip=clip)
    if "unifilter-tiny --start-from" in command:
        command = command.replace("--start-from unifilter-tiny", f"--start-from {own_folder()}")
    code, out, err = run(f"{command} --out {tmp_path}/out --dry-run", capsys)
    assert code == 0, err
    found = [line for line in out.splitlines() if ESTIMATE.search(line)]
    assert len(found) == 1 and parts in found[0]
    assert not (tmp_path / "out").exists()


def own_folder() -> Path:
    folder = bundled_folder("unifilter-tiny")
    assert folder is not None
    return folder


def test_an_endpoint_and_rules_take_none(drawn, tmp_path, capsys):
    for command in (
        f"score {drawn}/captions/shards --model rules",
        f"enhance {drawn}/captions/shards --model endpoint:http://127.0.0.1:9/v1#any",
    ):
        code, out, _ = run(f"{command} --out {tmp_path}/out --dry-run", capsys)
        assert code == 0 and "memory of" not in out


# Too little of it


@pytest.mark.parametrize(
    ("command", "fix"),
    [
        ("score {drawn}/captions/shards --model unifilter-tiny", "--dtype bfloat16 would fit"),
        (
            "score {drawn}/captions/shards --model unifilter-tiny --dtype bfloat16",
            "nothing smaller is known: use a device with",
        ),
        ("enhance {drawn}/captions/shards --model aitqe-tiny", "use a device with"),
        (BOTH, "--one-at-a-time would fit"),
        ("evaluate --model unifilter-tiny --data {drawn}/captions/train.json", "--dtype bfloat16"),
    ],
)
def test_weights_that_cannot_fit_are_one_line(command, fix, drawn, tmp_path, capsys, monkeypatch):
    room = {"rate": 15.5e6, "score": 7e6, "evaluate": 7e6, "enhance": 7e6}[command.split()[0]]
    if "bfloat16" in command:
        room = 1e6
    monkeypatch.setattr("mmsieve.devices.available_memory", lambda: int(room))
    command = command.format(drawn=drawn) + " --batch-tokens 16"
    monkeypatch.setattr("mmsieve.methods.mmssr.annotator._SAMPLE_TOKENS", 20)
    monkeypatch.setattr("mmsieve.methods.memory.WINDOW_BYTES", {"cpu": 0, "cuda": 0})
    code, _, err = run(f"{command} --out {tmp_path}/out --workers 0 --quiet", capsys)
    assert code == 2 and len(err.splitlines()) == 1, err
    assert "the weights take 0.0" in err and "and cpu has 0.0" in err and fix in err
    assert not list(tmp_path.glob("out/**/*.parquet"))


def large_folder(tmp_path: Path, rows: int) -> Path:
    """The bundled classifier with embeddings of so many rows: zeros that take no disk."""
    folder = tmp_path / "large"
    folder.mkdir()
    for file in own_folder().iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    edit_json(folder / "config.json", vocab_size=rows)
    state = load_file(own_folder() / "model.safetensors")
    width = state.pop("model.embed_tokens.weight").shape[1]
    save_file(state, folder / "small.safetensors")
    size = rows * width * 2
    offsets = {"dtype": "F16", "shape": [rows, width], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": offsets}).encode()
    with (folder / "model.safetensors").open("wb") as sparse:
        sparse.write(len(header).to_bytes(8, "little") + header)
        sparse.truncate(8 + len(header) + size)
    names = dict.fromkeys(state, "small.safetensors")
    names["model.embed_tokens.weight"] = "model.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


PRELUDE = """
import re, resource, sys
from pathlib import Path
from mmsieve.cli import main
import mmsieve.methods.unifilter.runner, mmsieve.methods.load

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def in_a_process(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_out_of_memory_while_loading_is_one_line(drawn, tmp_path):
    folder = large_folder(tmp_path, 1_500_000)
    code = """
room = status("VmSize") + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
main(sys.argv[1:])
"""
    words = f"score {drawn}/captions/shards --model {folder} --out {tmp_path}/out --workers 0"
    done = in_a_process(code, *words.split(), "--quiet", "--batch-tokens", "512")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "the weights take 0.78 GB in float32, and cpu ran out of memory: " in done.stderr
    assert "--dtype bfloat16 would fit: its weights take 0.39 GB" in done.stderr


def test_weights_are_in_memory_once_while_they_load(tmp_path):
    folder = large_folder(tmp_path, 600_000)
    code = """
from mmsieve.methods.load import load_model
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
model = load_model(sys.argv[1], device="cpu")
weights = sum(p.nbytes for p in model.runner.model.parameters())
print((status("VmHWM") - before) / 1e6, weights / 1e6)
"""
    done = in_a_process(code, folder)
    assert done.returncode == 0, done.stderr
    peak, weights = map(float, done.stdout.split())
    assert weights > 300 and peak < weights + 150


# Scorer and styler one after the other


def table(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in table_files(folder).values()])


def test_one_at_a_time_gives_the_same_table(drawn, tmp_path, capsys, monkeypatch):
    alive: list[weakref.ref] = []
    most = 0
    stock = mmssr_runner.LoadedRater.__init__

    def counted(self, *given) -> None:
        nonlocal most
        stock(self, *given)
        alive.append(weakref.ref(self))
        most = max(most, sum(one() is not None for one in alive))

    monkeypatch.setattr(mmssr_runner.LoadedRater, "__init__", counted)
    command = f"{BOTH} --expected --quiet --workers 0".format(drawn=drawn)
    assert run(f"{command} --out {tmp_path}/both", capsys)[0] == 0
    assert most == 2 and len(alive) == 2
    alive.clear()
    most = 0
    assert run(f"{command} --out {tmp_path}/turns --one-at-a-time", capsys)[0] == 0
    assert most == 1 and len(alive) == 2
    assert table(tmp_path / "both").equals(table(tmp_path / "turns"))
    # a table begun one way is gone on with the other way
    code, out, _ = run(f"{command} --out {tmp_path}/both --one-at-a-time", capsys)
    assert code == 0 and "resumed: 1 shard was done before" in out


def test_models_that_do_not_fit_together_take_turns(drawn, tmp_path, capsys, monkeypatch):
    command = BOTH.format(drawn=drawn) + f" --out {tmp_path}/out --dry-run"
    _, together, _ = run(command, capsys)
    monkeypatch.setattr("mmsieve.methods.mmssr.annotator.device_memory", lambda device: 10_000_000)
    _, alone, _ = run(command, capsys)
    weights = [float(re.search(r"weights ([\d.]+) GB", said)[1]) for said in (together, alone)]
    assert weights[0] == pytest.approx(2 * weights[1], abs=0.011)
    _, asked, _ = run(f"{command} --no-one-at-a-time", capsys)
    assert "weights 0.02 GB" in asked


# Tensors in files


DTYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"]


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_tensors_are_read_as_the_library_reads_them(tmp_path_factory, parts):
    file = tmp_path_factory.mktemp("tensors") / "model.safetensors"
    torch.manual_seed(0)
    state = {
        f"t{number}": (torch.randn(shape) * 100).to(getattr(torch, dtype))
        for number, (dtype, shape) in enumerate(parts)
    }
    save_file(state, file)
    places = {f"ours.{name}": (file, name) for name in state}
    stored = stored_tensors(places)
    for name, tensor in read_tensors(places).items():
        want = state[name.removeprefix("ours.")]
        assert tensor.dtype == want.dtype and torch.equal(tensor, want)
        assert stored[name].numbers == want.numel() and stored[name].item_bytes == want.itemsize
        assert torch.equal(stored[name][...], want)
        assert torch.equal(stored[name].to("float64")[...], want.double())
        if want.dim():
            assert torch.equal(stored[name].first(2)[...], want[:2])


def test_a_file_that_became_shorter_is_one_line(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(1000)}, file)
    stored = stored_tensors({"a": (file, "a")})
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(RequestError, match="has become shorter: fetch the file again"):
        stored["a"].read()


def test_other_number_formats_are_named(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(4, dtype=torch.float8_e4m3fn)}, file)
    stored = stored_tensors({"a": (file, "a")})
    assert stored["a"].item_bytes == 1 and np.prod(stored["a"].shape) == 4
    with pytest.raises(RequestError, match="holds F8_E4M3, and not one of BOOL"):
        stored["a"].read()
