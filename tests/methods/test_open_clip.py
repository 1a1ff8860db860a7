"""clip: with open_clip's folders, against the library itself; needs the extra [open_clip]."""

import io
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import PIL.Image
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.command_line import run_line
from tests.helpers.shards import caption, image, write_tar

DFN = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    "quick_gelu": True,
}
"""ViT-B-32, the geometry of the small DFN checkpoint."""
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
SQUASHED = {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}

needs_library = pytest.mark.skipif(
    find_spec("open_clip") is None, reason="open_clip is not installed: mmsieve[open_clip]"
)


def write_folder(folder: Path, model: dict[str, Any], pixels: dict[str, Any]) -> Path:
    folder.mkdir()
    config = {"model_cfg": model, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_without_the_library_or_with_a_broken_config_it_is_one_line(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", caption("a"))
    folder = write_folder(tmp_path / "dfn", TINY, {})
    save_file({"x": torch.zeros(1)}, folder / "open_clip_model.safetensors")
    words = ("score", tar, "--model", f"clip:{folder}", "--out", tmp_path / "t")
    monkeypatch.setattr("mmsieve.methods.clip.open_clip.find_spec", lambda name: None)
    got = run_line(*words)
    assert got.code == 2 and "pip install 'mmsieve[open_clip]'" in got.err
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": 3}}')
    got = run_line(*words)
    assert got.code == 2 and "open_clip_config.json" in got.err and got.err.count("\n") == 1


GEOMETRIES = [pytest.param(TINY, {}, id="tiny"), pytest.param(TINY, SQUASHED, id="squashed")]
if os.environ.get("MMSIEVE_OPEN_CLIP_FULL"):  # 600 MB of random weights
    GEOMETRIES.append(pytest.param(DFN, {}, id="ViT-B-32"))


@needs_library
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "pixels"), GEOMETRIES)
def test_similarities_are_those_of_the_library(model, pixels, tmp_path):
    import open_clip

    folder = write_folder(tmp_path / "dfn", model, pixels)
    torch.manual_seed(1)
    made, _, preprocess = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", load_weights=False
    )
    made.eval()
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    texts = ["A small dog on grass", "", "word " * 200, "<end_of_text> 12"]
    photos = [image(number, "PNG", (40, 56)) for number in range(len(texts))]
    members = []
    for key, (photo, text) in enumerate(zip(photos, texts, strict=True)):
        members += [(f"{key}.png", photo), (f"{key}.txt", text.encode()), (f"{key}.json", b"{}")]
    tar = write_tar(tmp_path / "a.tar", members)
    done = run_line(
        *("score", tar, "--model", f"clip:{folder}", "--out", tmp_path / "t"),
        *("--device", "cpu", "--workers", 0, "--quiet"),
    )
    assert done.code == 0, done.err
    rows = pl.read_parquet(tmp_path / "t" / "a.parquet")
    assert rows["status"].to_list() == ["ok", "text_missing", "ok", "ok"]
    assert rows["truncated"].to_list() == [False, None, True, False]
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        for number in (0, 2, 3):
            picture = preprocess(PIL.Image.open(io.BytesIO(photos[number])))
            seen = made.encode_image(picture[None], normalize=True)
            said = made.encode_text(tokenize([texts[number]]), normalize=True)
            wanted = float((seen @ said.T)[0, 0])
            assert rows["quality_score"][number] == pytest.approx(wanted, abs=2e-5)
