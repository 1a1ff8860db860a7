"""The network's parts: batches, layouts on disk, tokenizers, CPU kernels."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmsieve.errors import RequestError
from mmsieve.methods.base import Window, batches
from mmsieve.methods.cpu import PackedLinear, speed_up
from mmsieve.methods.load import load_annotator, load_model
from mmsieve.methods.tokenizer import IMAGE, load_tokenizer
from mmsieve.methods.unifilter.checkpoint import open_checkpoint
from mmsieve.methods.unifilter.model import (
    QualityClassifier,
    build_projector,
    load_classifier,
    save_classifier,
)
from tests.helpers.tiny import (
    RELEASED,
    TEXTS,
    Recipe,
    edit_json,
    make_checkpoint,
    make_tokenizer,
    write_json,
)
from tests.methods.unifilter.test_families import samples

COSTS = st.lists(st.integers(0, 400), max_size=60)


@given(COSTS, st.integers(1, 900), st.none() | st.integers(0, 400))
def test_every_item_is_in_one_batch_and_no_batch_is_over_budget(costs, budget, fence):
    made = batches(costs, budget, fence)
    assert sorted(index for batch in made for index in batch) == list(range(len(costs)))
    for batch in made:
        longest = max(costs[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert fence is None or len({costs[index] > fence for index in batch}) == 1
    lengths = [costs[index] for batch in made for index in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert made == batches(costs, budget, fence)


@given(COSTS, st.integers(1, 9), st.integers(1, 900), st.integers(1, 900))
def test_windows_are_runs_of_the_stream_within_their_limits(costs, items, tokens, nbytes):
    window = Window(items, tokens, nbytes)
    runs = list(window.split(costs, lambda cost: (cost, 2 * cost)))
    assert [cost for run in runs for cost in run] == costs
    for run in runs:
        assert 0 < len(run) <= items
        assert sum(run[:-1]) < tokens and 2 * sum(run[:-1]) < nbytes


@pytest.fixture(scope="module")
def released() -> QualityClassifier:
    return load_classifier(open_checkpoint(RELEASED))


def test_state_dict_names_are_the_published_ones(released):
    published = set(load_file(RELEASED / "model.safetensors"))
    ours = set(released.state_dict())
    assert ours <= published
    assert {name.split("vision_model.")[-1].split(".")[0] for name in published - ours} == {"head"}


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(family="gemma2", labels=2, tower="clip")])
def test_a_saved_checkpoint_is_a_released_one(recipe, tmp_path):
    folder = make_checkpoint(tmp_path / "model", recipe)
    checkpoint = open_checkpoint(folder)
    copy = tmp_path / "copy"
    save_classifier(load_classifier(checkpoint), copy, checkpoint)
    for row, want in zip(
        *(load_model(str(f)).score(samples()) for f in (copy, folder)), strict=True
    ):
        assert row["quality_score"] == pytest.approx(want["quality_score"], abs=1e-5)
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, copy))
    assert {k: v for k, v in after.items() if k not in ("architectures", "torch_dtype")} == {
        **before,
        **({} if recipe.labels == 2 else {"label2id": {"LABEL_0": 0}}),
    }


def test_a_checkpoint_of_our_own_stands_alone(tmp_path):
    folder = make_checkpoint(tmp_path / "a" / "model", Recipe(labels=4))
    checkpoint = open_checkpoint(folder)
    own = {"image_fit": "pad", "max_text_tokens": 50, "plain_text": True}
    copy = tmp_path / "copy"
    save_classifier(load_classifier(checkpoint), copy, checkpoint, own)
    wanted = load_model(str(folder), **own).score(samples())
    shutil.rmtree(tmp_path / "a")
    model = load_model(str(copy))
    assert model.annotator.notes == ()  # its own tower: nothing to say of it
    for row, want in zip(model.score(samples()), wanted, strict=True):
        assert row["num_tokens"] == want["num_tokens"] and row["truncated"] == want["truncated"]
        assert 0 <= row["quality_score"] <= 3  # the expected level, not a probability
        assert row["quality_level"] == round(row["quality_score"])


def test_training_gets_the_published_loss(released):
    ids = torch.tensor([[1, *[IMAGE] * 144, 5, 7], [1, *[IMAGE] * 144, 5, 0]])
    lengths = torch.tensor([147, 146])
    pixels = torch.rand(2, 3, 62, 62) * 2 - 1
    labels = torch.tensor([3.0, 0.0])
    out = released(input_ids=ids, lengths=lengths, pixel_values=pixels, labels=labels)
    assert out.logits.shape == (2, 1)
    assert torch.allclose(out.loss, ((out.logits[:, 0] - labels) ** 2).mean())
    same = released(input_ids=ids[1:, :146], lengths=lengths[1:], pixel_values=pixels[1:])
    assert torch.allclose(same.logits, out.logits[1:], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen3", "phi3", "gemma2"])
def test_cpu_kernels_give_the_stock_layers_scores(family, dtype, tmp_path):
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "model", Recipe(family=family)))
    name = str(dtype).removeprefix("torch.")
    stock, fast = load_classifier(checkpoint, name), load_classifier(checkpoint, name)
    note = speed_up(fast.model, dtype)
    if "stock" in note:
        pytest.skip(note)
    fast.read_last_only()
    assert any(isinstance(module, PackedLinear) for module in fast.modules())
    torch.manual_seed(0)
    ids = torch.randint(0, 900, (3, 250))
    ids[:, 3:19] = IMAGE
    pixels = torch.rand(3, 3, 30, 30).to(dtype)
    lengths = torch.tensor([250, 101, 20])
    out, want = (
        model.classify(ids, lengths, model.encode_images(pixels).flatten(0, 1)).float()
        for model in (fast, stock)
    )
    spread = float(want.std())
    assert (out - want).abs().max() < (2e-6 if dtype == torch.float32 else 0.1) * max(1, spread)


def test_without_the_packed_product_layers_stay_stock(released, monkeypatch):
    def broken(*args: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(PackedLinear, "forward", broken)
    assert "stock layers" in speed_up(released.model, torch.float32)
    assert "stock layers" in speed_up(released.model, torch.float16)


def test_an_unknown_projector_is_an_error():
    with pytest.raises(ValueError, match="unknown projector"):
        build_projector("resampler", 8, 8, 4)


def test_a_tokenizer_travels(tmp_path):
    make_tokenizer(tmp_path, "qwen3")
    spec = pickle.loads(pickle.dumps(load_tokenizer(tmp_path)))
    assert (spec.bos, spec.eos, spec.pad) == (905, 900, 901)
    assert spec.build().encode("<|endoftext|>").ids == [901]
    assert 901 not in spec.build(plain=True).encode("<|endoftext|>").ids


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_a_sentencepiece_folder_reads_text_as_sentencepiece_does(kind, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text"
    text.write_text("\n".join([*TEXTS, "two  spaces, three   spaces"] * 30))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), model_type="bpe",
        vocab_size=360, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=kind == "llama", minloglevel=2,
    )  # fmt: skip
    write_json(tmp_path / "config.json", {"model_type": f"llava_{kind}"})
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    write_json(tmp_path / "tokenizer_config.json", names)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    backend = load_tokenizer(tmp_path).build()
    for piece in ("A small dog.", "\nA map", "  two  spaces", "", "\u00e9\u6f22 zebra 12"):
        assert backend.encode(piece).ids == [1, *judge.encode(piece)], piece


def edit(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def lose_shard(folder: Path) -> None:
    index = {"weight_map": {"score.weight": "model-00001.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (remove("config.json"), "no config.json"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "unknown model": (edit(architectures=["LlavaMptClassifier"]), "is not one of qwen3, qwen2"),
    "pickle": (lambda f: (f / "model.safetensors").rename(f / "a.bin"), "never loads"),
    "no weights": (remove("model.safetensors"), r"no \*.safetensors"),
    "weights cut short": (cut_weights, "model.safetensors"),
    "no tokenizer": (remove("tokenizer.json", "vocab.json"), "no tokenizer in"),
    "unknown projector": (edit(mm_projector_type="resampler"), "'resampler' is not one of"),
    "no such layer": (edit(mm_vision_select_layer=-9), "does not exist"),
    "other tower": (edit(mm_hidden_size=50), "is 50 wide"),
    "shard missing": (lose_shard, "is missing"),
    "naflex tower": (
        lambda f: edit_json(next(f.glob("towers/*/config.json")), model_type="siglip2"),
        "'siglip2' is not",
    ),
    "other image size": (
        lambda f: edit_json(next(f.glob("towers/*/pre*.json")), size={"height": 9, "width": 9}),
        "for a tower of 62",
    ),
    "pooled feature": (edit(mm_vision_select_feature="cls_patch"), "not usable"),
    "language model alone": (
        lambda f: save_file({"model.norm.weight": torch.ones(4)}, f / "model.safetensors"),
        "without the tensors of UniFilter",
    ),
}


def broken_checkpoint(folder: Path, damage: Callable[[Path], object]) -> Path:
    """A copy of the recorded checkpoint with one thing wrong."""
    shutil.copytree(RELEASED, folder)
    shutil.copytree(RELEASED.parent / "towers", folder / "towers")
    damage(folder)
    return folder


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_can_not_be_used_is_named_in_one_line(case, tmp_path):
    damage, message = BROKEN[case]
    folder = broken_checkpoint(tmp_path / "model", damage)
    with pytest.raises(RequestError, match=message) as error:
        load_annotator(str(folder))
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_the_config_are_named(tmp_path):
    folder = broken_checkpoint(tmp_path / "model", edit(intermediate_size=96))
    with pytest.raises(RequestError, match="model") as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)
    edit_json(folder / "config.json", intermediate_size=128, num_hidden_layers=4)
    with pytest.raises(RequestError, match="num_hidden_layers is 4, the tensors have 3"):
        load_model(str(folder))
