"""Every published family and projector, against a straight computation with stock modules."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmsieve.cli import main
from mmsieve.errors import RequestError
from mmsieve.methods.load import load_annotator, load_model
from mmsieve.sample import Image, Sample, Text
from tests.helpers.shards import captions, write_tar
from tests.helpers.tiny import FAMILIES, TEXTS, Judge, Recipe, edit_json, make_checkpoint, picture

LONG = "Mountains at sunrise, seen from the window of a night train. " * 12


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


PICTURES = [picture(seed, 30 + 9 * seed, 66 - 7 * seed) for seed in range(5)]


def samples() -> list[Sample]:
    """Captions, and documents that start with a text and with an image, short and long."""
    made = [Sample.caption(png(PICTURES[n]), text, f"caption{n}") for n, text in enumerate(TEXTS)]
    long = (Text("Morning."), Image(png(PICTURES[0])), Text(LONG), Image(png(PICTURES[4])))
    short = (Image(png(PICTURES[2])), Image(png(PICTURES[3])), Text("Two in a row."))
    return [*made, Sample("long", long), Sample("short", short)]


def chunks(sample: Sample) -> list[str]:
    """The texts around a sample's images, as the published scripts write them."""
    if sample.kind == "caption":
        return ["", "\n" + sample.parts[1].text.replace("<image>", "image")]
    pieces = [
        "\0" if isinstance(part, Image) else part.text.replace("<image>", "<image-placeholder>")
        for part in sample.parts
    ]
    return "\n\n".join(pieces).split("\0")


def judged(judge: Judge, sample: Sample) -> torch.Tensor:
    """Logits of a sample, alone."""
    ids = judge.ids(chunks(sample), 75 if sample.kind == "caption" else 16384)
    images = [
        np.asarray(PIL.Image.open(io.BytesIO(image.data)).convert("RGB")) for image in sample.images
    ]
    return judge.logits(ids, images)


def check(folder: Path, tower: Path | None = None, **options: object) -> None:
    """Scores of a checkpoint equal the judge's, one by one and in one batch."""
    judge = Judge(folder, tower)
    wanted = {sample.key: judged(judge, sample) for sample in samples()}
    assert len({round(float(w[0]), 3) for w in wanted.values()}) == len(wanted)
    for batch_tokens in (1, None):
        rows = load_model(str(folder), device="cpu", batch_tokens=batch_tokens, **options).score(
            samples()
        )
        for row in rows:
            logits = wanted[row["key"]]
            assert row["status"] == "ok", row
            if len(logits) == 1:
                score, level = float(logits[0]), round(min(max(float(logits[0]), 0), 3))
            else:
                score, level = float(logits.softmax(-1)[1]), int(logits.argmax())
            assert row["quality_score"] == pytest.approx(score, abs=2e-5), row
            assert row["quality_level"] == level, row


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, tmp_path):
    check(make_checkpoint(tmp_path / "model", Recipe(family=family)))


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_several_labels(family, labels, tmp_path):
    check(make_checkpoint(tmp_path / "model", Recipe(family=family, labels=labels)))


@pytest.mark.parametrize("model", ["{}", "text-only:{}"])
@pytest.mark.parametrize("labels", [2, 4])
def test_score_warns_of_three_and_more_labels(labels, model, tmp_path, capsys):
    folder = make_checkpoint(tmp_path / "model", Recipe(labels=labels))
    pool = write_tar(tmp_path / "pool.tar", captions(1))
    words = ["score", str(pool), "--model", model.format(folder), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--dry-run"])
    assert ended.value.code == 0
    assert ("is the probability of label 1" in capsys.readouterr().out) == (labels > 2)


@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
def test_clip_tower(feature, tmp_path):
    recipe = Recipe(tower="clip", select_layer=-2, select_feature=feature, projector="mlp2x_gelu")
    check(make_checkpoint(tmp_path / "model", recipe))


@pytest.mark.parametrize("projector", ["linear", "mlp3x_gelu", "identity"])
def test_projector(projector, tmp_path):
    hidden = 48 if projector == "identity" else 64
    check(make_checkpoint(tmp_path / "model", Recipe(projector=projector, hidden=hidden)))


@pytest.mark.parametrize("tokens", [20, 36])
def test_pooling_to_no_square_and_beyond_the_grid(tokens, tmp_path):
    check(make_checkpoint(tmp_path / "model", Recipe(tokens=tokens)))


@pytest.mark.parametrize("layer", [0, 1, -2, 3])
def test_vision_layer(layer, tmp_path):
    check(make_checkpoint(tmp_path / "model", Recipe(select_layer=layer)))


def test_a_sequence_is_cut_after_splicing(tmp_path):
    folder = make_checkpoint(tmp_path / "model", Recipe(max_sequence=30))
    check(folder)
    rows = {row["key"]: row for row in load_model(str(folder)).score(samples())}
    assert rows["long"]["num_tokens"] == 30 and rows["long"]["truncated"]
    assert rows["short"]["num_tokens"] == 30 and rows["short"]["num_images"] == 2


def test_eos_that_is_also_pad(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    edit_json(folder / "tokenizer_config.json", pad_token="<|im_end|>")
    edit_json(folder / "special_tokens_map.json", pad_token="<|im_end|>")
    check(folder)
    item = load_annotator(str(folder)).preparer().prepare(samples()[0])
    assert 900 not in item.ids.tolist()


def test_slow_tokenizer_files_alone(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    preparer = load_annotator(str(folder)).preparer()
    fast = [preparer.prepare(sample).ids.tolist() for sample in samples()]
    (folder / "tokenizer.json").unlink()
    preparer = load_annotator(str(folder)).preparer()
    assert [preparer.prepare(sample).ids.tolist() for sample in samples()] == fast


def test_the_named_tower_wins_over_the_copy(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "vision_tower" in name:
            weights[name] = weights[name] + 0.3
    save_file(weights, folder / "model.safetensors")
    check(folder)
    assert str(tmp_path / "towers") in load_annotator(str(folder)).notes[0]


def test_a_tower_in_the_checkpoint_folder_or_the_working_directory(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "a" / "model")
    tower = tmp_path / "a" / "towers"
    here = tmp_path / "here"
    shutil.copytree(tower, here / "towers")
    monkeypatch.chdir(here)
    assert load_annotator(str(folder)).checkpoint.tower.tensors
    assert "towers" in load_annotator(str(folder)).notes[0]
    monkeypatch.chdir(tmp_path)
    shutil.move(tower, folder / "towers")
    assert str(folder / "towers") in load_annotator(str(folder)).notes[0]
    check(folder, tower=folder / "towers" / "siglip-tiny")


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_a_tower_of_published_width_is_rebuilt_from_the_copy_alone(kind, tmp_path):
    """No tower folder: geometry from the tensors, image size from the name, SigLIP's defaults."""
    folder = make_checkpoint(tmp_path / "model", Recipe(tower=kind, width=768, seed=5))
    tower = tmp_path / "kept"
    shutil.move(tmp_path / "towers" / f"{kind}-tiny", tower)
    size = 30 if kind == "siglip" else 28
    edit_json(folder / "config.json", mm_vision_tower=f"nobody/{kind}-patch7-{size}")
    edit_json(tower / "config.json", hidden_act=None)
    annotator = load_annotator(str(folder))
    assert annotator.checkpoint.image.size == size
    assert "inside the checkpoint" in annotator.notes[0]
    check(folder, tower)


def test_a_tower_without_safetensors_lends_its_config(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "towers" / "siglip-tiny", kept)
    (tmp_path / "towers" / "siglip-tiny" / "model.safetensors").unlink()
    assert "inside the checkpoint" in load_annotator(str(folder)).notes[0]
    check(folder, kept)


def test_a_tower_of_unknown_geometry_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    shutil.rmtree(tmp_path / "towers")
    with pytest.raises(RequestError, match=r"put the tower's config.json"):
        load_annotator(str(folder))


def test_weights_in_shards(tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "whole.safetensors")
    names = {name: f"model-{n % 3}.safetensors" for n, name in enumerate(sorted(weights))}
    for file in set(names.values()):
        save_file({n: weights[n] for n in names if names[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    rows = load_model(str(folder)).score(samples())
    (tmp_path / "whole.safetensors").rename(folder / "model.safetensors")
    index.unlink()
    for file in set(names.values()):
        (folder / file).unlink()
    assert load_model(str(folder)).score(samples()) == rows
