"""Published folders are known by their class and tensors, however their config spells them."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmsieve import RequestError, load_model
from mmsieve.methods.recognise import CLASSIFIERS, recognise
from tests.helpers import enhancers, mmssr_recordings, tiny
from tests.helpers.command_line import run_line as run
from tests.helpers.shards import captions, write_tar
from tests.helpers.tiny import edit_json

STOCK_LLAVA = {
    "ignore_index": -100,
    "projector_hidden_act": "gelu",
    "text_config": {"model_type": "llama"},
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "model_type": "clip_vision_model",
        "num_hidden_layers": 24,
        "patch_size": 14,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
"""What transformers adds where it reads such a config as its own Llava's, and saves it again."""

SPELLINGS: dict[str, dict[str, Any]] = {
    "llava_qwen": {"model_type": "llava_qwen", "architectures": ["LlavaQwenForCausalLM"]},
    "qwen2": {"model_type": "qwen2", "architectures": ["LlavaQwenForCausalLM"]},
    "llava": {"model_type": "llava", "architectures": ["LlavaQwenForCausalLM"], **STOCK_LLAVA},
    "no class": {"model_type": "qwen2", "architectures": None},
    "no type": {"model_type": None, "architectures": ["LlavaQwenForCausalLM"]},
    "neither": {"model_type": None, "architectures": None},
}


ON_CPU = ("--device", "cpu", "--workers", 0, "--quiet")


def copy(source: Path, place: Path, beside: str) -> Path:
    """A recorded checkpoint, and what lies beside it, where it can be changed."""
    shutil.copytree(source.parent / beside, place / beside)
    folder = Path(shutil.copytree(source, place / source.name))
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def rater(place: Path, **config: Any) -> Path:
    folder = copy(mmssr_recordings.CHECKPOINT, place, "google")
    edit_json(folder / "config.json", **config)
    return folder


def enhancer(place: Path, **config: Any) -> Path:
    folder = copy(enhancers.RELEASED, place, "vis")
    edit_json(folder / "config.json", **config)
    return folder


def classifier(place: Path, **config: Any) -> Path:
    folder = copy(tiny.RELEASED, place, "towers")
    edit_json(folder / "config.json", **config)
    return folder


# mmSSR: rate, convert and training take what the three 7B recipes start from


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_rater_is_known_whatever_it_calls_itself(spelling, tmp_path):
    samples = list(mmssr_recordings.conversations().values())[:2]
    wanted = load_model(str(rater(tmp_path / "as released")), device="cpu").rate(samples)
    folder = rater(tmp_path / "model", **SPELLINGS[spelling])
    loaded = load_model(str(folder), device="cpu")
    assert loaded.rate(samples) == wanted
    (note,) = (n for n in loaded.annotator.notes if "recognised" in n)
    assert "(mmSSR) on qwen2" in note and "\n" not in note


def items(place: Path) -> Path:
    """Two instruction samples without images, so that any rater can be asked about them."""
    turns = [{"from": "human", "value": "Which is more?"}, {"from": "gpt", "value": "Three."}]
    rows = [{"id": str(n), "conversations": turns, "image_source": "a"} for n in range(2)]
    file = place / "qas.json"
    file.write_text(json.dumps(rows))
    return file


def source(verb: str, place: Path) -> Path:
    """What a verb reads."""
    return items(place) if verb == "rate" else write_tar(place / "a.tar", captions(1))


@pytest.mark.parametrize("spelling", ["qwen2", "llava"])
def test_the_command_line_takes_it_and_says_what_it_is(spelling, tmp_path):
    folder, data = rater(tmp_path / "m", **SPELLINGS[spelling]), items(tmp_path)
    rated = run("rate", data, "--model", folder, "--out", tmp_path / "ratings", *ON_CPU)
    assert "2 rows" in rated.out and not rated.err  # of a model that rates nothing with a digit
    assert "recognised as a LLaVA-OneVision-style model (mmSSR) on qwen2" in rated.out
    assert f"model_type {spelling}" in rated.out
    converted = run("convert", folder, "--out", tmp_path / "stock")
    assert converted.code == 0, converted.err
    assert "recognised as a LLaVA-OneVision-style model" in converted.out
    stock = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert stock["text_config"]["model_type"] == "qwen2"
    assert stock["vision_config"]["hidden_size"] == 32
    trained = run(
        *("train", "rater", "mmssr-qwen2-7b-scorer", "--start-from", folder, "--data", data),
        *("--out", tmp_path / "trained", "--dry-run"),
    )
    assert trained.code == 0, trained.err
    assert "(mmSSR) on qwen2" in trained.out and "would train" in trained.out
    again = run("convert", tmp_path / "stock", "--out", tmp_path / "twice")
    assert again.code == 2 and "in the stock Hugging Face layout" in again.err


# UniFilter and AITQE


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_classifier_of_every_family_is_known_by_its_tensors(family, tmp_path):
    folder = tiny.make_checkpoint(tmp_path / "model", tiny.Recipe(family=family))
    layout, _ = tiny.FAMILIES[family]
    for spelling in ({}, {"model_type": family}, {"model_type": "llava"}, {"model_type": None}):
        edit_json(folder / "config.json", **spelling)
        found = recognise(folder)
        assert (found.method, found.backbone) == ("unifilter", family)
        assert found.config["model_type"] == layout and CLASSIFIERS[layout] == family


@pytest.mark.parametrize("model_type", ["llava_qwen3", "qwen3", "llava", None])
def test_a_classifier_scores_the_same_under_each_name(model_type, tmp_path):
    folder = classifier(tmp_path, model_type=model_type)
    tar = write_tar(tmp_path / "a.tar", captions(2))
    done = run("score", tar, "--model", folder, "--out", tmp_path / "t", *ON_CPU)
    assert done.code == 0, done.err
    assert "recognised as a quality classifier (UniFilter) on qwen3" in done.out
    first = run(
        *("score", tar, "--model", classifier(tmp_path / "b"), "--out", tmp_path / "u"), *ON_CPU
    )
    assert first.code == 0
    one, other = (pl.read_parquet(tmp_path / name / "a.parquet") for name in "tu")
    assert one["quality_score"].to_list() == other["quality_score"].to_list()


@pytest.mark.parametrize("model_type", ["mm", "qwen2", "llava", None])
def test_an_enhancer_is_known_under_each_name(model_type, tmp_path):
    folder = enhancer(tmp_path, model_type=model_type)
    tar = write_tar(tmp_path / "a.tar", captions(1))
    words = ("--max-new-tokens", 3, *ON_CPU, "--out", tmp_path / "t")
    done = run("enhance", tar, "--model", folder, *words)
    assert "recognised as an enhancer (AITQE) on qwen2" in done.out
    assert load_model(str(folder), device="cpu").annotator.kind == "assessment"
    converted = run("convert", folder, "--out", tmp_path / "stock")
    assert converted.code == 0, converted.err


def test_a_folder_of_another_method_is_told_its_verb(tmp_path):
    made = {"rate": rater, "enhance": enhancer, "score": classifier}
    for verb, make in made.items():
        folder = make(tmp_path / verb)
        for other in made.keys() - {verb}:
            got = run(other, source(other, tmp_path), "--model", folder, "--out", tmp_path / "no")
            assert got.code == 2 and f"use `{verb}`" in got.err, got.err
            assert got.err.count("\n") == 1


# What a config may not say

WRONG = {
    "another class": (classifier, {"architectures": ["LlavaPhi3Classifier"]}, "architectures"),
    "another type": (
        classifier,
        {"architectures": None, "model_type": "llava_llama"},
        "model_type is 'llava_llama', the tensors are those of qwen3",
    ),
    "no such model": (rater, {"architectures": ["LlavaMistralForCausalLM"]}, "is not one of"),
    "classifier": (classifier, {"num_key_value_heads": 4}, "num_key_value_heads is 4"),
    "classifier's layers": (classifier, {"num_hidden_layers": 2}, "num_hidden_layers is 2"),
    "rater": (rater, {"intermediate_size": 96}, "intermediate_size is 96"),
    "rater's tower": (rater, {"mm_hidden_size": 48}, "mm_hidden_size is 48"),
    "rater's heads": (rater, {"num_key_value_heads": 1}, "num_key_value_heads is 1"),
    "enhancer": (enhancer, {"hidden_size": 32}, "hidden_size is 32"),
    "enhancer's tower": (enhancer, {"visual_hidden_dim": 48}, "visual_hidden_dim is 48"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_lies_about_its_size_is_told_the_key(case, tmp_path):
    make, lie, message = WRONG[case]
    folder = make(tmp_path / "model", **lie)
    verb = {classifier: "score", rater: "rate", enhancer: "enhance"}[make]
    got = run(verb, source(verb, tmp_path), "--model", folder, "--out", tmp_path / "no")
    assert got.code == 2 and message in got.err, got.err
    assert "config.json" in got.err and got.err.count("\n") == 1


def test_a_language_model_alone_is_none(tmp_path):
    folder = rater(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    seeing = ("model.mm_projector.", "model.vision_tower.", "model.image_newline")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(seeing)}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(RequestError, match="without the tensors of UniFilter"):
        recognise(folder)


NAMES = st.sampled_from(
    ["LlavaQwenForCausalLM", "MMForCausalLM", "LlavaLlamaForCausalLM", "GPT2Model", "", "\u00e9"]
)


@given(
    architectures=st.none() | st.lists(NAMES | st.none() | st.integers(), max_size=3),
    model_type=st.none() | NAMES | st.sampled_from(["qwen2", "llava", "mm", "mistral"]),
)
def test_whatever_is_said_it_is_known_or_refused_in_a_line(
    architectures, model_type, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("names")
    tensors = {
        "model.layers.0.self_attn.q_proj.bias": torch.zeros(1),
        "model.image_newline": torch.zeros(1),
    }
    save_file(tensors, folder / "model.safetensors")
    config = {"architectures": architectures, "model_type": model_type}
    said = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(said))
    try:
        assert recognise(folder).backbone == "qwen2"
    except RequestError as error:
        assert "\n" not in str(error)
