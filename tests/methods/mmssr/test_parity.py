"""Prompts, pixels, logits and answers of the published mmSSR code, recorded, against ours.

The larger recordings are checked where MMSIEVE_REFERENCE names the folder that holds them.
"""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from mmsieve.errors import SampleError, Status
from mmsieve.images import ImageLimits
from mmsieve.methods.decoding import Decoding
from mmsieve.methods.mmssr.annotator import prompt_writer
from mmsieve.methods.mmssr.checkpoint import open_onevision
from mmsieve.methods.mmssr.inputs import (
    STYLE_QUESTION,
    SYSTEM,
    Prompt,
    RatingItem,
    RatingPreparer,
    capability_question,
    format_turns,
)
from mmsieve.methods.mmssr.runner import LoadedRater
from mmsieve.sample import Turn
from tests.helpers.mmssr_recordings import DATA, VARIANTS, checkpoint, conversations, golden


@cache
def model(variant: str) -> LoadedRater:
    return LoadedRater(open_onevision(checkpoint(variant)), "float32", torch.device("cpu"))


def prepare(variant: str, case: dict) -> RatingItem:
    """The inputs of a recorded case, which may have been asked with an empty system text."""
    opened = open_onevision(checkpoint(variant))
    is_style = case["keyword"] == "style"
    question = STYLE_QUESTION if is_style else capability_question(case["keyword"])
    writer = prompt_writer(opened, [question], clean=False)
    writer = replace(writer, system="" if case["instruct_sys"] else SYSTEM)
    preparer = RatingPreparer((writer,), opened.image, opened.max_sequence, ImageLimits())
    return preparer.prepare(conversations()[case["idx"]])


def asked(variant: str) -> tuple[list[Prompt], list[np.ndarray]]:
    """The prompts and images of all cases; the refused ones as the published code asks them."""
    prompts, images = [], []
    for case in golden(variant)[0]:
        ids = case["input_ids"]
        shared = np.array(ids[:-1], np.int32)
        length = case["n_embeds"] - 1
        prompts.append(Prompt(shared, ((ids[-1],),), length))
        images.append(np.empty((0, 384, 384, 3), np.uint8))
        if -200 in ids:
            images[-1] = prepare(variant, case).images
    return prompts, images


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_are_those_recorded_token_for_token(variant):
    refused = []
    for case in golden(variant)[0]:
        try:
            prompt = prepare(variant, case).prompts[0]
        except SampleError as error:
            assert error.status == Status.CONVERSATION_INVALID
            refused.append(case["idx"])
            continue
        assert [*prompt.shared, *prompt.ends[0]] == case["input_ids"]
        assert prompt.length + len(prompt.ends[0]) == case["n_embeds"]
    assert refused == [311162] * 3  # the assistant begins: the published code drops the text


@pytest.mark.parametrize("variant", VARIANTS)
def test_pixels_and_image_embeddings_are_those_recorded(variant):
    cases, arrays = golden(variant)
    compared = 0
    for number, case in enumerate(cases):
        if -200 not in case["input_ids"]:
            continue
        images = prepare(variant, case).images
        pixels = (images[0].transpose(2, 0, 1) / np.float32(255) - 0.5) / 0.5
        assert np.allclose(pixels.ravel()[::9973], arrays[f"pix_{number}"], atol=1e-6)
        features = model(variant).features(images[:1])[0]
        assert len(features) == 730
        sampled = features[[0, 1, 26, 27, 728], :8].numpy()
        assert np.allclose(sampled, arrays[f"feat_{number}"], atol=1e-4)
        compared += 1
    assert compared == 15


@pytest.mark.parametrize("variant", VARIANTS)
def test_first_logits_are_those_recorded(variant):
    prompts, images = asked(variant)
    prefilled = model(variant).prefill(prompts, images)
    logits = model(variant).logits(prefilled, [prompt.ends for prompt in prompts])
    arrays = golden(variant)[1]
    wanted = np.stack([arrays[f"logits_{number}"] for number in range(len(prompts))])
    assert np.abs(logits.numpy() - wanted).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_answers_are_those_recorded(variant):
    """Up to where the published code's own choice is by less than 2e-3."""
    cases = golden(variant)[0]
    opened = open_onevision(checkpoint(variant))
    rules = Decoding(
        max_new_tokens=max(case["safe_prefix"] for case in cases),
        end_ids=opened.end_ids,
        repetition_penalty=opened.repetition_penalty,
    )
    prompts, images = asked(variant)
    prefilled = model(variant).prefill(prompts, images)
    answers = model(variant).generate(prefilled, [prompt.ends[0] for prompt in prompts], rules)
    for case, answer in zip(cases, answers, strict=True):
        safe = case["safe_prefix"]
        assert answer[:safe] == case["output_ids"][:safe]


def test_conversations_are_formatted_as_recorded():
    for case in json.loads((DATA / "format_convs.json").read_text()):
        turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(case["turns"])]
        assert format_turns(turns, clean=False) == case["formatted"]
