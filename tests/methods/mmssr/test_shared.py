"""Answers over a shared beginning against a separate pass of the stock class for each question."""

import random
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlavaOnevisionForConditionalGeneration

from mmsieve.labels import CAPABILITIES
from mmsieve.methods.decoding import build_tree
from mmsieve.methods.load import load_rater
from mmsieve.methods.mmssr.checkpoint import open_onevision
from mmsieve.methods.mmssr.inputs import RatingItem
from mmsieve.methods.mmssr.model import load_rater as load_stock
from mmsieve.methods.tokenizer import IMAGE
from tests.helpers.mmssr_recordings import CHECKPOINT, VARIANTS, checkpoint, invent, needs_reference

NUMBERS = [f"{name}_expected" for name in CAPABILITIES]


MARK = 646
"""<|endoftext|>, which no invented sample has: the stock class wants an id of its vocabulary."""


@cache
def stock() -> LlavaOnevisionForConditionalGeneration:
    model = load_stock(open_onevision(CHECKPOINT))
    model.config.image_token_id = MARK
    return model


@torch.inference_mode()
def ask_alone(item: RatingItem, question: int) -> torch.Tensor:
    """Logits of an answer's first token: the whole prompt through the stock class, images too."""
    prompt = item.prompts[0]
    ids = torch.tensor([*prompt.shared, *prompt.ends[question]]).long()
    ids = torch.repeat_interleave(ids, torch.where(ids == IMAGE, 730, 1))
    ids[ids == IMAGE] = MARK
    images = {}
    if len(item.images):
        pixels = torch.from_numpy(item.images).permute(0, 3, 1, 2)[:, None] / 255
        images = {
            "pixel_values": (pixels - 0.5) / 0.5,
            "image_sizes": torch.full((len(pixels), 2), 384),
            # twice the number of images: the stock class then takes one view of each
            "batch_num_images": torch.tensor([2 * len(pixels)]),
        }
    return stock()(input_ids=ids[None], logits_to_keep=1, **images).logits[0, -1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "questions"),
    [(20, 3), pytest.param(48, 14, marks=needs_reference)],
    ids=["in_tests", "all"],
)
def test_a_shared_beginning_gives_the_logits_of_separate_passes(count, questions):
    rated = load_rater(str(CHECKPOINT), "cpu", expected=True)
    items = [rated.preparer.prepare(sample) for sample in invent(count, seed=count)]
    model = rated.runner.models[0]
    draw = random.Random(count)
    for start in range(0, count, 4):
        batch = items[start : start + 4]
        prompts = [item.prompts[0] for item in batch]
        with torch.inference_mode():
            prefilled = model.prefill(prompts, [item.images for item in batch])
            logits = model.logits(prefilled, [prompt.ends for prompt in prompts]).view(4, 14, -1)
        for item, own in zip(batch, logits, strict=True):
            for question in draw.sample(range(14), questions):
                alone = ask_alone(item, question)
                assert torch.allclose(own[question], alone, atol=1e-4)
                assert own[question].argmax() == alone.argmax()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_do_not_depend_on_company(variant):
    folder = str(checkpoint(variant))
    options = {"expected": True, "styler": folder, "styles_decoding": "constrained"}
    samples = invent(9, seed=3)
    wanted = load_rater(folder, "cpu", batch_tokens=1, **options).rate(samples)
    order = random.Random(5).sample(range(9), 9)
    for batch_tokens in (None, 100_000):
        model = load_rater(folder, "cpu", batch_tokens=batch_tokens, **options)
        rows = model.rate([samples[index] for index in order])
        for index, row in zip(order, rows, strict=True):
            want = wanted[index]
            assert row == want | {name: pytest.approx(want[name], abs=1e-5) for name in NUMBERS}


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_tree_holds_its_sequences_and_each_node_sees_its_ancestors(sequences):
    tree = build_tree(tuple(map(tuple, sequences)))
    assert len(tree.ids) == len({tuple(s[: n + 1]) for s in sequences for n in range(len(s))})
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tree.ids[path].tolist() == sequence
        assert tree.depths[path].tolist() == list(range(len(sequence)))
        for depth, node in enumerate(path):
            assert np.flatnonzero(tree.sees[node]).tolist() == sorted(path[: depth + 1].tolist())
