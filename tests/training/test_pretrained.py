"""train on pretrained backbones: every family, judged by stock modules; LoRA; odd folders."""

import json
from pathlib import Path

import PIL.Image
import pytest
import torch
import transformers
from safetensors.torch import load_file

import mmsieve
from mmsieve import RequestError, TrainOptions
from mmsieve.generation.files import CAPTION_HEAD
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.unifilter.model import load_classifier
from tests.helpers.tiny import (
    FAMILIES,
    Judge,
    Recipe,
    edit_json,
    make_tokenizer,
    make_tower,
    picture,
    shake,
)
from tests.helpers.tiny import _text_model as text_model

pytestmark = pytest.mark.slow

RECIPE = """from mmsieve.training.recipe import Recipe, load_recipe
SMOKE = load_recipe("unifilter-qwen3-0.6b", Recipe, smoke=True).changed(
    weights="float32", start={{"image_tokens": 4, "labels": {labels}}},
    classifier={{"learning_rate": 1e-3, "lora": {lora}}},
)
"""


def language_model(folder: Path, family: str, tied: bool) -> Path:
    """A tiny language model in the stock layout, as its makers publish it."""
    torch.manual_seed(1)
    base = text_model(Recipe(family=family))
    base.config.tie_word_embeddings = tied
    model = transformers.AutoModelForCausalLM.from_config(base.config)
    shake(model)
    model.save_pretrained(folder)
    make_tokenizer(folder, family)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Captions of square pictures at every level, as text files know them."""
    folder = tmp_path / "data"
    folder.mkdir()
    records = []
    for index in range(3):
        PIL.Image.fromarray(picture(index, 40, 40)).save(folder / f"{index}.png")
        for level in range(4):
            text = f"{CAPTION_HEAD}A small brown dog, number {index}, of level {level}."
            records.append({"image": f"{index}.png", "text": text, "label": level})
    (folder / "train.json").write_text(json.dumps(records))
    captions = [
        {"image": f"{index}.png", "conversations": [{"from": "gpt", "value": "A dog on grass."}]}
        for index in range(3)
    ]
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def recipe(folder: Path, labels: int = 1, lora: str = "None") -> str:
    file = folder / "recipe.py"
    file.write_text(RECIPE.format(labels=labels, lora=lora))
    return str(file)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_stages_on_every_family_give_what_stock_modules_give(tmp_path, data, family):
    tower = "clip" if family == "llama" else "siglip"
    make_tower(tmp_path / "tower", Recipe(tower=tower))
    language = language_model(tmp_path / "language", family, tied=family != "llama")
    common = {
        "smoke": True,
        "quiet": True,
        "language_model": str(language),
        "vision_tower": str(tmp_path / "tower"),
    }
    first, out = tmp_path / "projector", tmp_path / "out"
    captions = TrainOptions(data=data / "captions.json", **common)
    mmsieve.train_projector(recipe(tmp_path), out=first, options=captions)
    options = TrainOptions(data=data / "train.json", **common)
    mmsieve.train_classifier(recipe(tmp_path), out=out, start_from=first, options=options)
    before, after = load_file(first / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert "score.weight" in changed
    assert "model.embed_tokens.weight" in changed
    assert any("mm_projector" in name for name in changed)
    assert any(".layers.2." in name for name in changed)
    assert not any("vision_tower" in name for name in changed)
    untouched = load_file(language / "model.safetensors")
    for name, tensor in untouched.items():  # stage 1 teaches the projector alone
        assert "lm_head" in name or torch.equal(before[name], tensor), name
    assert score_gap(out, tmp_path / "tower", data) < 2e-5


def score_gap(folder: Path, tower: Path, data: Path) -> float:
    """The largest difference to the judge's score over a few captions."""
    judge = Judge(folder, tower)
    texts = ["A small brown dog.", "", "Two cats on a sofa; a river below the map."]
    samples = [mmsieve.Sample.caption(data / f"{i}.png", text) for i, text in enumerate(texts)]
    rows = mmsieve.load_model(str(folder)).score(samples)
    wanted = []
    for index, text in enumerate(texts):
        ids = judge.ids(["", f"\n{text}"], 8192)
        image = PIL.Image.open(data / f"{index}.png").convert("RGB")
        wanted.append(judge.logits(ids, [image])[0].item())
    return max(abs(row["quality_score"] - score) for row, score in zip(rows, wanted, strict=True))


def test_adapters_are_merged_and_only_the_language_model_has_them(tmp_path, data):
    make_tower(tmp_path / "tower", Recipe())
    language = language_model(tmp_path / "language", "qwen3", tied=True)
    lora = "{'rank': 2, 'alpha': 8}"
    options = TrainOptions(
        smoke=True,
        quiet=True,
        data=data / "train.json",
        language_model=str(language),
        vision_tower=str(tmp_path / "tower"),
    )
    out = tmp_path / "out"
    mmsieve.train_classifier(recipe(tmp_path, lora=lora), out=out, options=options)
    state, before = load_file(out / "model.safetensors"), load_file(language / "model.safetensors")
    changed = {n for n in before if n in state and not torch.equal(before[n], state[n])}
    assert changed
    assert all(".layers." in name and name.endswith("proj.weight") for name in changed)
    assert all(torch.linalg.matrix_rank(state[n] - before[n], atol=1e-6) <= 2 for n in changed)
    assert not any("lora" in name or "base_layer" in name for name in state)
    assert score_gap(out, tmp_path / "tower", data) < 2e-5


def test_another_number_of_labels_gets_a_new_head(tmp_path, data):
    make_tower(tmp_path / "tower", Recipe())
    language = language_model(tmp_path / "language", "qwen2", tied=True)
    options = TrainOptions(
        smoke=True,
        quiet=True,
        data=data / "train.json",
        language_model=str(language),
        vision_tower=str(tmp_path / "tower"),
    )
    one, four = tmp_path / "one", tmp_path / "four"
    mmsieve.train_classifier(recipe(tmp_path), out=one, options=options)
    mmsieve.train_classifier(recipe(tmp_path, labels=4), out=four, start_from=one, options=options)
    assert load_classifier(load_unifilter(str(four)).checkpoint).score.out_features == 4


def test_a_tokenizer_without_a_bos_gets_one_on_a_spare_row(tmp_path, data):
    make_tower(tmp_path / "tower", Recipe())
    language = language_model(tmp_path / "language", "qwen3", tied=True)
    edit_json(language / "tokenizer_config.json", bos_token=None)
    options = TrainOptions(
        smoke=True,
        quiet=True,
        data=data / "train.json",
        language_model=str(language),
        vision_tower=str(tmp_path / "tower"),
    )
    mmsieve.train_classifier(recipe(tmp_path), out=tmp_path / "out", options=options)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert tokenizer.bos_token == "<s>"
    assert tokenizer.bos_token_id < 1024


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"language_model": "nowhere"}, "no model 'nowhere'"),
        ({"vision_tower": "nowhere"}, "no model 'nowhere'"),
        ({"language_model": "tower"}, "model_type 'siglip_vision_model' is not one of qwen3"),
    ],
)
def test_a_wrong_backbone_is_refused_before_anything_is_written(tmp_path, data, broken, says):
    make_tower(tmp_path / "tower", Recipe())
    language_model(tmp_path / "language", "qwen2", tied=True)
    names = {"language_model": "language", "vision_tower": "tower"} | broken
    folders = {k: str(tmp_path / v) if (tmp_path / v).is_dir() else v for k, v in names.items()}
    options = TrainOptions(smoke=True, data=data / "train.json", **folders)
    with pytest.raises(RequestError, match=says):
        mmsieve.train_classifier(recipe(tmp_path), out=tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
