"""--backend vllm without vLLM: the stock class of transformers in its place.

So the folder, the ids, the squares and the reading of answers are tested everywhere; `make
test-vllm` has the real one.
"""

import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from mmsieve import RequestError, Sample, convert, load_enhancer, load_rater
from mmsieve.synthetic.instructions import instruction
from mmsieve.synthetic.teacher import Drawing, assessment_group

SCORER, STYLER, ENHANCER = "mmssr-tiny-scorer", "mmssr-tiny-styler", "aitqe-tiny"


class StockLLM:
    """Answers as vLLM's LLM does, with the stock class, one prompt after the other."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, model: str, **settings: Any) -> None:
        self.made.append({"model": model, **settings})
        self._model = AutoModelForImageTextToText.from_pretrained(model, dtype="float32")
        self._processor = AutoImageProcessor.from_pretrained(model)

    @torch.inference_mode()
    def generate(self, given: list[Any], params: Any, use_tqdm: bool) -> list[Any]:
        each = params if isinstance(params, list) else [params] * len(given)
        return [self._answer(*one) for one in zip(given, each, strict=True)]

    def _answer(self, prompt: dict[str, Any], params: Any) -> Any:
        config, pixels = self._model.config, {}
        image, patches = config.image_token_id, config.image_seq_length
        ids = [
            i
            for one in prompt["prompt_token_ids"]
            for i in [one] * (patches if one == image else 1)
        ]
        if "multi_modal_data" in prompt:
            shown = prompt["multi_modal_data"]["image"]
            assert len(prompt["multi_modal_uuids"]["image"]) == len(shown)
            pixels = self._processor(shown, return_tensors="pt")
        chosen: list[int] = []
        logprobs = None
        while len(chosen) < params.max_tokens and not {*chosen} & {*params.stop_token_ids}:
            out = self._model(input_ids=torch.tensor([ids + chosen]), **pixels)
            odds = out.logits[0, -1].log_softmax(0)
            wanted = getattr(params, "logprob_token_ids", None) or ()
            logprobs = logprobs or [{i: SimpleNamespace(logprob=float(odds[i])) for i in wanted}]
            chosen.append(int(odds.argmax()))
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=chosen, logprobs=logprobs)])


@pytest.fixture
def vllm(monkeypatch):
    """A package `vllm` of the version 0.0."""
    package, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    package.LLM = StockLLM
    package.SamplingParams = lambda **given: SimpleNamespace(**{"stop_token_ids": (), **given})
    params.StructuredOutputsParams = SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    version = metadata.version
    known = {"vllm": "0.0"}
    monkeypatch.setattr(metadata, "version", lambda name: known.get(name) or version(name))
    StockLLM.made.clear()
    return StockLLM


def drawn(count: int) -> list[Sample]:
    return [instruction(6, index).sample(Drawing().draw) for index in range(count)]


def test_ids_and_squares_over_the_stock_folder_give_the_torch_runners_rows(vllm, tmp_path):
    asked = {"device": "cpu", "capabilities": "ocr,data", "styler": STYLER, "expected": True}
    rater = load_rater(SCORER, backend="vllm", **asked)
    found, wanted = rater.rate(drawn(6)), load_rater(SCORER, **asked).rate(drawn(6))
    for row, torchs in zip(found, wanted, strict=True):
        for name, value in torchs.items():
            assert row[name] == (pytest.approx(value, abs=1e-4) if "expected" in name else value)
    assert rater.annotator.fingerprint["backend"] == "vllm 0.0"
    first, second = vllm.made
    assert (first["dtype"], first["gpu_memory_utilization"]) == ("float32", 0.45)
    assert first["enable_prefix_caching"] and not Path(second["model"]).samefile(first["model"])


def test_captions_too(vllm):
    group = assessment_group(6, 0)
    samples = [Sample.caption(group.image, pair.text) for pair in group.pairs]
    found = load_enhancer(ENHANCER, device="cpu", backend="vllm").enhance(samples)
    wanted = load_enhancer(ENHANCER, device="cpu").enhance(samples)
    for name in ("status", "overall_score", "recaption", "final_caption", "rewrite_refused"):
        assert [row[name] for row in found] == [row[name] for row in wanted]


def test_a_stock_folder_is_used_where_it_is_given(vllm, tmp_path):
    convert(ENHANCER, out=tmp_path / "stock")
    stock = {"device": "cpu", "backend": "vllm", "stock": str(tmp_path / "stock")}
    load_enhancer(ENHANCER, quantization="fp8", tensor_parallel=2, **stock)
    (made,) = vllm.made
    assert (made["model"], made["quantization"]) == (stock["stock"], "fp8")
    assert made["tensor_parallel_size"] == 2
    with pytest.raises(RequestError, match="was converted from another model"):
        load_rater(SCORER, **stock)
    with pytest.raises(RequestError, match="no config"):
        load_rater(SCORER, **(stock | {"stock": str(tmp_path)}))


def test_options_of_vllm_are_for_vllm(monkeypatch):
    for option in ({"stock": "x"}, {"quantization": "fp8"}, {"tensor_parallel": 2}):
        with pytest.raises(RequestError, match="is for --backend vllm"):
            load_rater(SCORER, device="cpu", **option)

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("mmsieve.methods.vllm.metadata.version", missing)
    with pytest.raises(RequestError, match="vLLM is not installed"):
        load_rater(SCORER, device="cpu", dtype="float32", backend="vllm")
