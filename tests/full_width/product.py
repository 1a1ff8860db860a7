"""A folder loaded and run by mmsieve in a process of its own, which says what memory that took.

`python -m tests.full_width.product FOLDER OUT` writes OUT as JSON: bytes at the peak of loading,
above those before it, and what the model says of the samples.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from mmsieve import Sample, load_enhancer, load_model, load_rater
from mmsieve.sample import Turn
from tests.helpers.shards import image

CAPTIONS = ["A small dog runs over wet grass.", "12 maps, none of them right", "x"]
PHOTOS = [image(number) for number in range(len(CAPTIONS))]
ASKED = "ocr,stem"
TOKENS = 64
"""Ids whose logits are compared, from the first on."""
BUNDLED = {"unifilter": "unifilter-tiny", "mmssr": "mmssr-tiny-scorer", "aitqe": "aitqe-tiny"}


def samples(method: str) -> list[Sample]:
    """What every model is shown."""
    pairs = list(zip(PHOTOS, CAPTIONS, strict=True))
    if method != "mmssr":
        return [Sample.caption(photo, text, text) for photo, text in pairs]
    turns = [[Turn("user", f"<image>\n{text}?"), Turn("assistant", "Yes.")] for text in CAPTIONS]
    both = zip(PHOTOS, turns, CAPTIONS, strict=True)
    return [Sample.instruction([photo], asked, text) for photo, asked, text in both]


def memory(key: str) -> int:
    """VmHWM, the peak, or VmRSS, of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def load(method: str, folder: Path | str) -> Any:
    """The model, as a user of the package loads it."""
    if method == "aitqe":
        return load_enhancer(str(folder), device="cpu")
    if method == "mmssr":
        return load_rater(str(folder), device="cpu", capabilities=ASKED, expected=True)
    return load_model(str(folder), device="cpu")


def say(method: str, loaded: Any) -> list[Any]:
    """What it says of each sample: the score, the expected ratings, or logits of the next token."""
    given = samples(method)
    if method == "unifilter":
        return [row["quality_score"] for row in loaded.score(given)]
    if method == "mmssr":
        rows = loaded.rate(given)
        return [[row[f"{name}_expected"] for name in ASKED.split(",")] for row in rows]
    return [_next_logits(loaded, sample) for sample in given]


@torch.inference_mode()
def _next_logits(loaded: Any, sample: Sample) -> list[float]:
    """After the prompt of a caption, by the parts that the enhancer's runner decodes with."""
    item, runner = loaded.preparer.prepare(sample), loaded.runner
    prompt = torch.cat([runner.encode(item.image[None])[0], runner.language.embed(item.ids)])
    mask = torch.ones(1, len(prompt), dtype=torch.long)
    hidden = runner.language.hidden(prompt[None], mask, DynamicCache())
    logits: list[float] = runner.language.head(hidden)[0, -1, :TOKENS].tolist()
    return logits


def main(method: str, folder: Path, out: Path) -> None:
    """Load, run, and write what came of it; the libraries are in memory before."""
    load(method, BUNDLED[method])
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    loaded = load(method, folder)
    peak = memory("VmHWM") - before
    out.write_text(json.dumps({"peak": peak, "said": say(method, loaded)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
