"""Half precision: what ranks samples is computed in float32, and what ties remain is said."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import polars as pl
import pytest
import torch

import mmsieve
from mmsieve import GenerateOptions, Sample, ScoringOptions
from mmsieve.cli import main
from mmsieve.engine.annotator import Annotator
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.load import load_aitqe, load_annotator, load_model, load_rater, load_raters
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.methods.unifilter.model import load_classifier
from mmsieve.tables import read_frames, table_files
from tests.helpers.enhancers import RELEASED as RELEASED_ENHANCER
from tests.helpers.mmssr_recordings import CHECKPOINT, invent
from tests.helpers.tiny import RELEASED, Recipe, make_checkpoint, picture


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """200 drawn captions, as shards and as a training file."""
    out = tmp_path_factory.mktemp("drawn") / "pool"
    options = GenerateOptions(
        teacher="rendered", count=200, texts_per_image=1, seed=3, shards=True, quiet=True
    )
    mmsieve.generate_captions(out=out, options=options)
    return out


def run(command: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    return ended.value.code


def scores(table: Path) -> np.ndarray:
    frames = read_frames(table_files(table).values(), ["quality_score"])
    return pl.concat(frames)["quality_score"].to_numpy()


def holds(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Which float32 values a shorter precision can hold."""
    tensor = torch.from_numpy(values.copy())
    return (tensor == tensor.to(dtype).float()).numpy()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scores_in_half_precision_are_told_apart(dtype, pool, tmp_path, capsys):
    score = f"score {pool}/shards --model unifilter-tiny --device cpu --workers 0 --quiet"
    assert run(f"{score} --out {tmp_path}/half --dtype {dtype}") == 0
    assert run(f"{score} --out {tmp_path}/whole") == 0
    half, whole = scores(tmp_path / "half"), scores(tmp_path / "whole")
    assert len(np.unique(half)) >= 198 and len(np.unique(whole)) == 200
    assert holds(half, getattr(torch, dtype)).mean() < 0.1
    assert np.abs(half - whole).max() < {"bfloat16": 0.05, "float16": 0.005}[dtype]
    capsys.readouterr()
    assert run(f"evaluate {tmp_path}/half {tmp_path}/whole --out {tmp_path}/agreed") == 0
    said = capsys.readouterr().out
    assert "half: different scores: " in said and "whole: different scores: 200 of 200" in said


def test_the_head_computes_in_float32_whatever_is_around_it():
    checkpoint = load_annotator("unifilter-tiny", ScoringOptions(device="cpu")).checkpoint
    whole = load_classifier(checkpoint).score
    hidden = torch.randn(5, whole.in_features)
    for dtype in ("bfloat16", "float16"):
        head = load_classifier(checkpoint, dtype).score
        assert torch.equal(head.weight, whole.weight) and head.weight.dtype == torch.float32
        short = hidden.to(getattr(torch, dtype))
        assert torch.equal(head(short), whole(short.float()))
    alone = whole(hidden)
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        assert torch.equal(whole(hidden), alone)


def test_expected_ratings_in_half_precision_are_of_float32_logits():
    samples = [one for one in invent(12, seed=5) if len(one.images) < 2][:4]
    rated = load_rater(str(CHECKPOINT), "cpu", "bfloat16", expected=True)
    model = rated.runner.models[0]
    items = [rated.preparer.prepare(sample) for sample in samples]
    prompts = [item.prompts[0] for item in items]
    with torch.inference_mode():
        prefilled = model.prefill(prompts, [item.images for item in items])
        logits = model.logits(prefilled, [prompt.ends for prompt in prompts])
    tokenizer = rated.preparer.writers[0].tokenizer.build()
    digits = [tokenizer.encode(digit, add_special_tokens=False).ids[0] for digit in "012345"]
    assert logits.dtype == torch.float32
    assert holds(logits[:, digits].numpy(), torch.bfloat16).mean() < 0.1
    assert holds(logits[:, : digits[0]].numpy(), torch.bfloat16).all()
    exact = load_rater(str(CHECKPOINT), "cpu", expected=True).rate(samples)
    for row, want in zip(rated.rate(samples), exact, strict=True):
        assert row["ocr_expected"] == pytest.approx(want["ocr_expected"], abs=0.1)


def released_and_own(tmp_path: Path) -> dict[str, Annotator]:
    gpu = ScoringOptions(device="cuda")
    return {
        "float16": load_annotator(str(RELEASED), gpu),
        "bfloat16": load_annotator("unifilter-tiny", gpu),
        "bfloat16 enhancer": load_aitqe(str(RELEASED_ENHANCER), EnhanceOptions(), gpu),
        "bfloat16 enhancer of ours": load_aitqe("aitqe-tiny", EnhanceOptions(), gpu),
        "float16 rater": load_raters(str(CHECKPOINT), RatingOptions(device="cuda")),
        "bfloat16 rater of ours": load_raters("mmssr-tiny-scorer", RatingOptions(device="cuda")),
        "float32 as asked": load_annotator(
            str(RELEASED), ScoringOptions(device="cuda", dtype="float32")
        ),
    }


def test_on_a_gpu_released_checkpoints_compute_as_published(tmp_path, monkeypatch):
    monkeypatch.setattr("mmsieve.devices._count_gpus", lambda: 1)
    for name, annotator in released_and_own(tmp_path).items():
        dtype = name.split()[0]
        assert annotator.fingerprint["dtype"] == dtype, name


def test_a_table_of_the_stock_head_is_not_gone_on_with():
    """Float32 tables are what they were; those of half precision have other numbers now."""
    options = {d: ScoringOptions(device="cpu", dtype=d) for d in ("float32", "bfloat16")}
    heads = {d: load_annotator(str(RELEASED), one).fingerprint for d, one in options.items()}
    assert "head" not in heads["float32"] and heads["bfloat16"]["head"] == "float32"


@pytest.mark.parametrize("labels", [2, 4])
def test_probabilities_of_labels_are_of_float32_logits(labels, tmp_path):
    folder = make_checkpoint(tmp_path / "model", Recipe(labels=labels))
    photo = io.BytesIO()
    PIL.Image.fromarray(picture(1)).save(photo, "PNG")
    samples = [Sample.caption(photo.getvalue(), "word " * n, str(n)) for n in range(1, 9)]
    rows = load_model(str(folder), device="cpu", dtype="bfloat16").score(samples)
    assert len({row["quality_score"] for row in rows}) == 8


def test_evaluate_says_what_ties_a_cut_would_meet(pool, tmp_path, capsys):
    evaluate = f"evaluate --model unifilter-tiny --data {pool}/train.json --quiet"
    assert run(f"{evaluate} --out {tmp_path} --device cpu --resamples 20") == 0
    said = capsys.readouterr().out
    assert "different scores: 200 of 200; tied at a cut of the top 10%: 0" in said
    ties = json.loads((tmp_path / "metrics.json").read_text())["ties"]
    assert ties == {"distinct": 200, "at_top": {"0.1": 0, "0.3": 0, "0.5": 0}}
