"""Samples per second of `rate` on a CPU, beside the published loop, taking turns in one run.

    python -m benchmarks.rate_speed [--samples 6] [--rounds 3] [--hidden 512] [--layers 8]

A checkpoint with random weights whose parts share the work as those of the released 7B do (the
tower has a twentieth of one pass), one 384-pixel image (730 tokens) and 100 to 200 text tokens a
sample. Preparing is included, in the same process for all. Floating-point operations are counted
by torch over stock layers; those of attention as if no mask left any out.
"""

import argparse
import io
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import LlavaOnevisionForConditionalGeneration

from benchmarks.contestants.rate_loop import PublishedLoop
from mmsieve import RatingOptions, Sample, Turn
from mmsieve.labels import CAPABILITIES
from mmsieve.methods.load import LoadedModel, load_raters
from mmsieve.methods.mmssr import runner as mmssr_runner
from mmsieve.methods.mmssr.checkpoint import OneVision, open_onevision
from mmsieve.methods.mmssr.model import save_rater, stock_config
from mmsieve.methods.tokenizer import load_tokenizer

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "mmssr" / "llava-qwen-tiny-a"
TOWER = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6}
TOWER_LAYERS = 6
WORDS = ["what", "colour", "shape", "is", "the", "sign", "near", "red", "dog", "how", "many"]


def make_checkpoint(folder: Path, hidden: int, layers: int, styles: bool) -> OneVision:
    """Random weights in the published layout; the likeliest tokens are mostly digits."""
    recorded = open_onevision(RECORDED)
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(1, hidden // 256),
    }
    vision = {**recorded.tower.config, **TOWER, "num_hidden_layers": TOWER_LAYERS}
    tower = replace(recorded.tower, config=vision)
    config = {**recorded.config, **sizes, "mm_hidden_size": TOWER["hidden_size"]}
    like = replace(recorded, config=config, tower=tower)
    torch.manual_seed(1 + styles)
    model = LlavaOnevisionForConditionalGeneration(stock_config(like)).requires_grad_(False)
    digits = load_tokenizer(RECORDED).build().encode_batch(list("012345"))
    is_digit = torch.zeros(len(model.lm_head.weight), 1)
    is_digit[[found.ids[0] for found in digits]] = 1
    model.lm_head.weight *= is_digit + 0.1 * (1 - is_digit)
    own = {"clean_format": False, "styles": styles, "capabilities": CAPABILITIES}
    save_rater(model, folder, like, own)
    return open_onevision(folder)


def make_samples(count: int) -> list[Sample]:
    """One noisy image and one or two questions each."""
    draw = random.Random(7)
    samples = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (240, 320, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((640, 480)).save(file, "JPEG")
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(15, 30))) for _ in range(4)]
        texts[0] = f"<image>\n{texts[0]}"
        turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
        samples.append(Sample.instruction([file.getvalue()], turns, str(number)))
    return samples


def load(scorer: OneVision, styler: OneVision | None) -> LoadedModel:
    """A scorer, which names the styles too unless there is a styler."""
    name = str((styler or scorer).folder)
    return LoadedModel(load_raters(str(scorer.folder), RatingOptions(device="cpu", styler=name)))


def count_operations(run: Callable[[], Any]) -> float:
    """Floating-point operations of a run."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def attend(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    with FlopCounterMode(display=False, custom_mapping={attention: attend}) as counter:
        run()
    return float(counter.get_total_flops())


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    asked = parser.parse_args()
    samples = make_samples(asked.samples)
    with TemporaryDirectory() as folder:
        both, styler = (
            make_checkpoint(Path(folder) / name, asked.hidden, asked.layers, styles=True)
            for name in ("both", "styler")
        )
        loop = PublishedLoop(both, CAPABILITIES)
        crew = {
            "one model": load(both, None).rate,
            "scorer and styler": load(both, styler).rate,
            "published loop": loop.rate,
        }
        seconds: dict[str, list[float]] = {name: [] for name in crew}
        rows: dict[str, Any] = {}
        for rate in crew.values():
            rate(samples[:1])  # warm
        for _ in range(asked.rounds):
            for name, rate in crew.items():
                started = time.perf_counter()
                rows[name] = rate(samples)
                seconds[name].append(time.perf_counter() - started)
        operations = count_all(samples[:2], both, styler, loop)
    print_table(seconds, operations, asked.samples)
    print(f"same first answer tokens: {agreement(rows)}")


def count_all(
    samples: list[Sample], both: OneVision, styler: OneVision, loop: PublishedLoop
) -> dict[str, float]:
    """Operations per sample of each, with stock layers in all of them."""
    packed = mmssr_runner.speed_up
    mmssr_runner.speed_up = lambda model, dtype: "stock layers"
    try:
        crew = {
            "one model": load(both, None).rate,
            "scorer and styler": load(both, styler).rate,
            "published loop": loop.rate,
        }
    finally:
        mmssr_runner.speed_up = packed
    found = {name: count_operations(lambda r=rate: r(samples)) for name, rate in crew.items()}
    return {name: count / len(samples) for name, count in found.items()}


def agreement(rows: dict[str, Any]) -> str:
    """How many ratings are the first answer token of the loop."""
    encode = load_tokenizer(RECORDED).build().encode
    digits = {encode(digit).ids[0]: int(digit) for digit in "012345"}
    pairs = [
        (ours[name], digits.get(token))
        for ours, theirs in zip(rows["one model"], rows["published loop"], strict=True)
        for name, token in theirs.items()
    ]
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


def print_table(
    seconds: dict[str, list[float]], operations: dict[str, float], samples: int
) -> None:
    """Speed and work of each, and their ratios to the published loop's."""
    base, work = seconds["published loop"], operations["published loop"]
    rounds = len(base)
    print(
        f"| contestant | samples/s (median of {rounds}) | x published loop (median, least) "
        "| GFLOP a sample | of the loop's |"
    )
    print("|---|---|---|---|---|")
    for name, own in seconds.items():
        ratios = [b / a for a, b in zip(own, base, strict=True)]
        print(
            f"| {name} | {samples / statistics.median(own):.3g} "
            f"| {statistics.median(ratios):.1f}, {min(ratios):.1f} "
            f"| {operations[name] / 1e9:.0f} | {operations[name] / work:.3f} |"
        )


if __name__ == "__main__":
    main()
