"""A rater in the stock Hugging Face layout: the same logits, the same ids."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from mmsieve import convert
from mmsieve.images import ImageLimits, decode, fit
from mmsieve.methods.mmssr.annotator import prompt_writer
from mmsieve.methods.mmssr.checkpoint import open_onevision
from mmsieve.methods.mmssr.inputs import STYLE_QUESTION, format_turns
from mmsieve.methods.mmssr.model import encode_images, load_rater
from mmsieve.methods.tokenizer import IMAGE
from tests.helpers.mmssr_recordings import CHECKPOINT, conversations

TOKENS = 648


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    report = convert(str(CHECKPOINT), out=out)
    assert "tiles" in report.summary()
    return out


def test_the_stock_classes_load_it_and_give_the_same_logits(converted):
    stock, info = AutoModelForImageTextToText.from_pretrained(
        converted, dtype="float32", output_loading_info=True
    )
    assert not any(info.values()), info
    opened = open_onevision(CHECKPOINT)
    sample = conversations()[914567]
    prompt, _ = prompt_writer(opened, [STYLE_QUESTION], clean=False).write(sample.turns)
    ids = torch.tensor([*prompt.shared, *prompt.ends[0]]).long()
    pixels = fit(decode(sample.images[0].data, ImageLimits()), opened.image)
    views = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    ours = load_rater(opened)
    with torch.inference_mode():
        place = ids.tolist().index(IMAGE)
        text = ours.get_input_embeddings()(ids.clamp(min=0))
        whole = torch.cat([text[:place], encode_images(ours, views)[0], text[place + 1 :]])[None]
        wanted = ours.lm_head(ours.model.language_model(inputs_embeds=whole).last_hidden_state)
        spread = torch.repeat_interleave(ids, torch.where(ids == IMAGE, opened.image_tokens, 1))
        spread[spread == IMAGE] = stock.config.image_token_id
        found = stock(
            input_ids=spread[None],
            pixel_values=views[:, None],
            image_sizes=torch.tensor([[384, 384]]),
            batch_num_images=torch.tensor([2]),  # one view, no tiles
        ).logits
    assert torch.allclose(found[..., :TOKENS], wanted, atol=1e-5)
    marks = found[..., TOKENS:].amax(-1)
    assert (found[..., :TOKENS].amax(-1) >= marks).all()  # the marks are never the likeliest


def test_tokenizer_chat_and_processor_are_there(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    marks = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    config = json.loads((converted / "config.json").read_text())
    assert marks == [config["image_token_index"], config["video_token_index"]]
    sample = conversations()[427392]
    text = f"{format_turns(sample.turns, clean=False)}\n{STYLE_QUESTION}"
    before, after = text.split("<image>")
    parts = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
    )
    prompt, _ = prompt_writer(open_onevision(CHECKPOINT), [STYLE_QUESTION], False).write(
        sample.turns
    )
    ids = [marks[0] if id_ == IMAGE else id_ for id_ in [*prompt.shared, *prompt.ends[0]]]
    assert tokenizer.decode(ids) == chat
    processor = AutoImageProcessor.from_pretrained(converted)
    assert processor.size["height"] == 384
