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
from tests.helpers.command_line import run_line
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


def language_model(folder: Path, family: str, tied: bool, hidden: int = 64) -> Path:
    """A tiny language model in the stock layout, as its makers publish it."""
    torch.manual_seed(1)
    base = text_model(Recipe(family=family, hidden=hidden))
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


def parts(folder: Path, hidden: int = 64) -> tuple[str, ...]:
    """Flags that name a tiny tower and language model."""
    make_tower(folder / "tower", Recipe())
    language_model(folder / "language", "qwen3", tied=True, hidden=hidden)
    place = ("--language-model", folder / "language", "--vision-tower", folder / "tower")
    return (*map(str, place), "--smoke", "--quiet")


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu", "mlp3x_gelu", "aapool_mlp"])
def test_every_projector_can_be_chosen_and_trained(tmp_path, data, kind):
    words = (*parts(tmp_path), "--projector", kind)
    first, out = tmp_path / "projector", tmp_path / "out"
    captions = ("--data", data / "captions.json", "--out", first)
    done = run_line("train", "projector", recipe(tmp_path), *captions, *words)
    assert done.code == 0, done.err
    start = ("--start-from", first, "--data", data / "train.json", "--out", out)
    done = run_line("train", "classifier", recipe(tmp_path), *start, *words)
    assert done.code == 0, done.err
    config = json.loads((out / "config.json").read_text())
    assert config["mm_projector_type"] == kind
    assert load_unifilter(str(out)).checkpoint.image_tokens == (4 if kind == "aapool_mlp" else 16)
    assert score_gap(out, tmp_path / "tower", data) < 2e-5
    other = run_line("train", "classifier", recipe(tmp_path), *start, *words, "--projector", "x")
    assert other.code == 2
    words = (*words[:-1], "identity")
    other = run_line("train", "classifier", recipe(tmp_path), *start, *words)
    assert other.code == 2 and f"has '{kind}'" in other.err


def test_the_identity_needs_a_tower_as_wide_as_the_language_model(tmp_path, data):
    given = ("--data", data / "train.json", "--projector", "identity")
    words = ("train", "classifier", recipe(tmp_path), *given)
    other = run_line(*words, *parts(tmp_path / "a"), "--out", tmp_path / "no")
    assert other.code == 2 and "48 wide" in other.err and "64: take another kind" in other.err
    fitting = parts(tmp_path / "b", hidden=48)
    done = run_line(*words, *fitting, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert score_gap(tmp_path / "out", tmp_path / "b" / "tower", data) < 2e-5
    captions = ("--data", data / "captions.json", "--projector", "identity")
    stage = ("train", "projector", recipe(tmp_path), *captions, *fitting)
    other = run_line(*stage, "--out", tmp_path / "no")
    assert other.code == 2 and "nothing to learn" in other.err


@pytest.mark.parametrize("projector", [None, "aapool_mlp"])
def test_one_embedding_per_patch_without_a_number(tmp_path, data, projector):
    """Pooling to as many as there are is none; else the published projector without pooling."""
    file = tmp_path / "recipe.py"
    start = {"image_tokens": None, "projector": projector}
    file.write_text(
        "from mmsieve.training.recipe import Recipe, load_recipe\n"
        f"SMOKE = load_recipe('unifilter-qwen3-0.6b', Recipe, smoke=True).changed(start={start})\n"
    )
    words = ("train", "classifier", file, "--data", data / "train.json", *parts(tmp_path))
    done = run_line(*words, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    found = load_unifilter(str(tmp_path / "out")).checkpoint
    assert found.projector == (projector or "mlp2x_gelu") and found.image_tokens == 16


def test_a_projector_of_another_name_or_of_another_method_is_refused(tmp_path, data):
    words = ("--data", data / "train.json", "--out", tmp_path / "no", "--projector")
    got = run_line("train", "classifier", "unifilter-qwen3-0.6b", *words, "qformer")
    assert got.code == 2 and "is not one of aapool_mlp, linear, mlpNx_gelu, identity" in got.err
    got = run_line("train", "enhancer", "aitqe-qwen2-7b", *words, "linear")
    assert got.code == 2 and "makes no new one of several kinds" in got.err
