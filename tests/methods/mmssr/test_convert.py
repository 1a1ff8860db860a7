"""A rater in the stock Hugging Face layout, a Llava: the same logits, the same ids."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from mmsieve import convert
from mmsieve.images import ImageLimits, decode, fit
from mmsieve.methods.folders import bundled_folder, bundled_names
from mmsieve.methods.mmssr.annotator import prompt_writer
from mmsieve.methods.mmssr.checkpoint import CHAT, open_onevision
from mmsieve.methods.mmssr.inputs import STYLE_QUESTION, format_turns
from mmsieve.methods.mmssr.model import encode_images, load_rater
from mmsieve.methods.tokenizer import IMAGE
from tests.helpers.mmssr_recordings import CHECKPOINT, conversations

TOKENS = 648


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    report = convert(str(CHECKPOINT), out=out)
    assert "730 tokens" in report.summary()
    return out


@pytest.fixture(scope="module")
def stock(converted):
    model, info = AutoModelForImageTextToText.from_pretrained(
        converted, dtype="float32", output_loading_info=True
    )
    assert not any(info.values()), info
    return model


def wanted_ids(sample_id: int, marks: tuple[int, int]) -> tuple[list[int], list[int]]:
    """The ids that rating asks about a sample's styles with, and those of a chat."""
    opened = open_onevision(CHECKPOINT)
    sample = conversations()[sample_id]
    prompt, _ = prompt_writer(opened, [STYLE_QUESTION], clean=False).write(sample.turns)
    ids = [*prompt.shared.tolist(), *prompt.ends[0]]
    chat = [mark for id_ in ids for mark in (marks if id_ == IMAGE else [id_])]
    return ids, chat


def test_the_stock_classes_load_it_and_give_the_same_logits(stock):
    opened = open_onevision(CHECKPOINT)
    image, newline = stock.config.image_token_id, stock.config.image_token_id + 1
    ids, chat = wanted_ids(914567, (image, newline))
    sample = conversations()[914567]
    pixels = fit(decode(sample.images[0].data, ImageLimits()), opened.image)
    views = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    ours = load_rater(opened)
    with torch.inference_mode():
        place = ids.index(IMAGE)
        text = ours.get_input_embeddings()(torch.tensor(ids).clamp(min=0))
        whole = torch.cat([text[:place], encode_images(ours, views)[0], text[place + 1 :]])[None]
        wanted = ours.lm_head(ours.model.language_model(inputs_embeds=whole).last_hidden_state)
        spread = torch.tensor(chat)
        spread = torch.repeat_interleave(spread, torch.where(spread == image, 729, 1))
        found = stock(input_ids=spread[None], pixel_values=views).logits
    assert torch.allclose(found[..., :TOKENS], wanted, atol=1e-5)
    marks = found[..., TOKENS:].amax(-1)
    assert (found[..., :TOKENS].amax(-1) >= marks).all()  # the marks are never the likeliest


@pytest.mark.parametrize("sample", [427392, 914567])
def test_a_chat_becomes_the_published_prompt_to_the_token(converted, sample):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    marks = tuple(tokenizer.convert_tokens_to_ids(list(CHAT.marks)))
    config = json.loads((converted / "config.json").read_text())
    assert marks == (config["image_token_index"], config["image_token_index"] + 1)
    text = f"{format_turns(conversations()[sample].turns, clean=False)}\n{STYLE_QUESTION}"
    before, after = text.split(CHAT.marks[0])
    parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True
    )
    ids = chat["input_ids"] if not isinstance(chat, list) else chat
    assert ids == wanted_ids(sample, marks)[1]


def test_any_picture_is_shown_in_one_view(converted, stock):
    processor = AutoProcessor.from_pretrained(converted)
    picture = torch.zeros(3, 100, 200, dtype=torch.uint8)
    inputs = processor(text="".join(CHAT.marks), images=[picture], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 384, 384)
    assert (inputs["input_ids"] == stock.config.image_token_id).sum() == 729
    with torch.inference_mode():
        assert stock(**inputs).logits.isfinite().all()


def test_tied_embeddings_are_untied_for_the_newline(tmp_path):
    """Else an answer could be the newline, whose embedding is no row of the published head."""
    published = shutil.copytree(bundled_folder("mmssr-tiny-scorer"), tmp_path / "tied")
    config = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    convert(str(published), out=tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    head, rows = model.lm_head.weight, model.get_input_embeddings().weight
    assert torch.equal(head[:-2], rows[:-2]) and not torch.equal(head[-1], rows[-1])


@pytest.mark.parametrize("model", [*bundled_names("enhance"), *bundled_names("rate")])
def test_servers_can_read_what_is_written(tmp_path, model):
    convert(model, out=tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as weights:
        tower = [name for name in weights.keys() if "vision_tower." in name]  # noqa: SIM118
    # vLLM knows no others, both versions of transformers do
    assert tower and all(name.startswith("model.vision_tower.vision_model.") for name in tower)
    files = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()}
    assert set(files.values()) == {files["config.json"]}  # not their owner's only
    wanted = ("preprocessor_config.json", "processor_config.json", "chat_template.jinja")
    assert files.keys() >= {*wanted, "tokenizer.json", "generation_config.json"}
    loaded, info = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", dtype="float32", output_loading_info=True
    )
    assert not any(info.values())
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    content = [{"type": "image"}, {"type": "text", "text": "\nWhat is it?"}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    picture = torch.zeros(3, 100, 200, dtype=torch.uint8)
    with torch.inference_mode():
        inputs = processor(text=chat, images=[picture], return_tensors="pt")
        assert loaded(**inputs).logits.isfinite().all()
