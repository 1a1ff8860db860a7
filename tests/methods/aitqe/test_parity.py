"""AITQE's published code, recorded (tests/data/aitqe), against ours.

The larger recordings are checked where MMSIEVE_REFERENCE names the folder that holds them.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoProcessor, LlavaForConditionalGeneration

from mmsieve import RequestError, Sample, SampleError, ScoringOptions, convert
from mmsieve.engine.annotator import RunnerOptions
from mmsieve.images import decode
from mmsieve.methods.aitqe.annotator import Aitqe, EnhanceOptions
from mmsieve.methods.aitqe.answers import MARKER, AssessmentError, read_answer
from mmsieve.methods.aitqe.inputs import AitqeItem, question
from mmsieve.methods.aitqe.model import encode_images
from mmsieve.methods.load import load_aitqe
from tests.helpers.paths import RECORDED_DATA

DATA = RECORDED_DATA / "aitqe"
REFERENCE = os.environ.get("MMSIEVE_REFERENCE")

needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of the larger recordings"
)
VARIANTS = [
    pytest.param("", id="in_tests"),
    pytest.param("a", marks=needs_reference),
    pytest.param("b", marks=needs_reference),
]


class Recording:
    """A checkpoint and what the published code made of some captions with it."""

    def __init__(self, variant: str) -> None:
        whole = Path(REFERENCE or "") / "reference" / "aitqe"
        place = whole / f"golden_{variant}" if variant else DATA
        self.checkpoint = (whole if variant else DATA) / f"aitqe-tiny-{variant or 'b'}"
        self.images = whole / "data" / "images" if variant else DATA / "images"
        self.cases: list[dict[str, Any]] = json.loads((place / "golden.json").read_text())
        self.arrays = np.load(place / "golden.npz")
        for number, case in enumerate(self.cases):
            case["number"] = number

    @property
    def answered(self) -> list[dict[str, Any]]:
        """Cases that the published code answers, with arrays."""
        return [case for case in self.cases if f"logits_{case['number']}" in self.arrays]

    def sample(self, case: dict[str, Any]) -> Sample:
        return Sample.caption(self.images / case["image"], case["caption"], str(case["sample"]))

    def annotator(self, **options: Any) -> Aitqe:
        asked = EnhanceOptions(**options)
        return load_aitqe(str(self.checkpoint), asked, ScoringOptions(device="cpu"))

    def item(self, case: dict[str, Any]) -> AitqeItem:
        return self.annotator().preparer().prepare(self.sample(case))


recording = cache(Recording)


@cache
def runner(variant: str, **options: Any) -> Any:
    return recording(variant).annotator(**options).runner(RunnerOptions())


@torch.inference_mode()
def first_logits(variant: str, item: AitqeItem) -> np.ndarray:
    ours = runner(variant)
    image = ours.encode(np.stack([item.image]))[0]
    prompt = torch.cat([image, ours.language.embed(item.ids.tolist())])
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    from transformers import DynamicCache

    hidden = ours.language.hidden(prompt[None], mask, DynamicCache())
    return ours.language.head(hidden[:, -1])[0].numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_pixels_and_features_are_those_recorded(variant):
    found = recording(variant)
    assert len(found.answered) >= 6
    for case in found.answered:
        item = found.item(case)
        assert item.ids.tolist() == [token for token in case["input_ids"] if token >= 0]
        assert case["input_ids"].count(-1) == runner(variant).image_tokens
        pixels = (item.image.transpose(2, 0, 1).astype(np.float32) / 255 - 0.5) / 0.5
        number = case["number"]
        assert pixels.ravel()[::997] == pytest.approx(found.arrays[f"pix_{number}"], abs=1e-6)
        features = runner(variant).encode(np.stack([item.image]))[0].numpy()
        wanted = found.arrays[f"feat_{number}"]
        assert features[[0, 1, -2, -1], :8] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_logits_are_those_recorded(variant):
    found = recording(variant)
    for case in found.answered:
        logits = first_logits(variant, found.item(case))
        assert logits == pytest.approx(found.arrays[f"logits_{case['number']}"], abs=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_gelu_would_be_noticed(variant):
    """The tolerance of the test before tells the projector's exact GELU from the tanh one."""
    found, projector = recording(variant), runner(variant).model.model.multi_modal_projector
    exact, projector.act = projector.act, nn.GELU(approximate="tanh")
    try:
        apart = [
            np.abs(first_logits(variant, found.item(c)) - found.arrays[f"logits_{c['number']}"])
            for c in found.answered
        ]
    finally:
        projector.act = exact
    assert np.max(apart) > 2e-4


@pytest.mark.parametrize("mode", ["stop", "all"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_ids_are_those_recorded_in_a_batch(variant, mode):
    found = recording(variant)
    cases = [case for case in found.cases if case["mode"] == mode and "output_ids" in case]
    answers = runner(variant, explain=mode == "all").compute([found.item(case) for case in cases])
    assert len(cases) >= 6
    for case, ids in zip(cases, answers, strict=True):
        safe = case["safe_prefix"]
        assert ids[:safe] == case["output_ids"][:safe]
        if safe == len(case["output_ids"]):
            assert ids == case["output_ids"]  # it stops where the published code stops


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_its_samples_alone(variant):
    found = recording(variant)
    items = [found.item(case) for case in found.answered]
    ours = runner(variant, max_new_tokens=40)
    together = ours.compute(items)
    assert together == [ours.compute([item])[0] for item in items]
    assert together[::-1] == ours.compute(items[::-1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_the_published_code_stops_at_is_a_row(variant):
    found = recording(variant)
    failed = [case for case in found.cases if case.get("error")]
    assert {case["error"] for case in failed} == {"AssertionError"} and len(failed) == 4
    for case in failed:
        if (found.images / case["image"]).exists():  # the pad token in a caption: judged
            assert found.item(case).caption == case["caption"]
        else:
            with pytest.raises(SampleError) as error:
                found.annotator().preparer().prepare(Sample.caption(b"", case["caption"]))
            assert error.value.known["final_caption"] == case["caption"]


def test_answers_stopped_in_any_recorded_way_are_read():
    for case in json.loads((DATA / "stop_strings.json").read_text()):
        assert (MARKER in case["text"]) == (case["stopped_on"] is not None)
        read = read_answer(case["text"])
        assert (read.recaption, read.overall) == ("A man", 2)
        if not case["json_ok"]:  # what the published code makes of it isn't JSON
            with pytest.raises(ValueError, match=r"."):
                json.loads(case["post"])
    with pytest.raises(AssessmentError):
        read_answer('{"Recaption": "A man", "Overall Score": "2<Overall')


@pytest.fixture(scope="module")
def stock(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("stock") / "llava"
    convert(str(recording(request.param).checkpoint), out=out)
    model, info = LlavaForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    return request.param, model, AutoProcessor.from_pretrained(out)


@torch.inference_mode()
@pytest.mark.parametrize("stock", VARIANTS, indirect=True)
def test_the_converted_checkpoint_gives_the_same_in_the_stock_class(stock):
    variant, model, processor = stock
    found = recording(variant)
    image_id = model.config.image_token_id
    for case in found.answered:
        image = decode((found.images / case["image"]).read_bytes(), ScoringOptions().image_limits)
        words = "\n" + question(case["caption"], plain=False)
        content = [{"type": "image", "image": image}, {"type": "text", "text": words}]
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": content}]],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = inputs["input_ids"][0].tolist()
        assert [-1 if token == image_id else token for token in ids] == case["input_ids"]
        wanted = found.arrays[f"logits_{case['number']}"]
        logits = model(**inputs).logits[0, -1].numpy()
        assert logits[: len(wanted)] == pytest.approx(wanted, abs=1e-4)
        most = min(case["safe_prefix"], 40)
        made = model.generate(**inputs, max_new_tokens=most, do_sample=False)[0, len(ids) :]
        assert made.tolist() == case["output_ids"][:most]


def test_a_folder_that_is_not_empty_is_not_converted_into(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="not empty"):
        convert(str(recording("").checkpoint), out=tmp_path)


def test_images_are_encoded_as_by_the_stock_class():
    ours, size = runner(""), recording("").annotator().checkpoint.image.size
    pixels = torch.zeros(2, 3, size, size)
    stock = ours.model.model.get_image_features(pixels).pooler_output
    assert torch.allclose(encode_images(ours.model, pixels), torch.stack(stock), atol=1e-6)
