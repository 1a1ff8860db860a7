"""The memory estimate of `--dry-run` beside measured peaks, each verb in a process of its own.

    python -m benchmarks.memory [--case NAME...]

Checkpoints have real widths and few layers, so that weights take most in some cases, and what a
batch computes in the others. What is measured is the highest resident memory of the process (VmHWM)
less what it had before the model was loaded, libraries in memory. CPU only.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import mmsieve
from benchmarks.sized import make_folder
from mmsieve import GenerateOptions
from mmsieve.training.memory import TEXT_TOKENS
from tests.full_width.folders import GEOMETRIES, Geometry

WORD = "a"
"""A token of any vocabulary."""
QWEN_1_5B, QWEN_7B = GEOMETRIES["Qwen2.5-1.5B"], GEOMETRIES["mmSSR-7B"]


@dataclass(frozen=True)
class Case:
    """A request whose memory is estimated and measured."""

    verb: str
    geometry: Geometry
    layers: int
    tower_layers: int
    options: dict[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None
    styler: bool = False


CASES = {
    "score, weights": Case("score", QWEN_1_5B, 4, 2, vocabulary=151_936),
    "score, weights, bfloat16": Case("score", QWEN_1_5B, 4, 2, {"dtype": "bfloat16"}, 151_936),
    "score, activations": Case("score", QWEN_1_5B, 2, 1, {"batch_tokens": 4096}),
    "rate, weights": Case("rate", QWEN_7B, 2, 3),
    "rate, two models": Case("rate", QWEN_1_5B, 4, 3, styler=True),
    "rate, two models, one at a time": Case(
        "rate", QWEN_1_5B, 4, 3, {"one_at_a_time": True}, styler=True
    ),
    "rate, activations": Case("rate", QWEN_1_5B, 2, 3, {"batch_tokens": 6144}),
    "enhance, weights": Case("enhance", QWEN_7B, 2, 3, {"batch_tokens": 2048}),
    "enhance, activations": Case("enhance", QWEN_1_5B, 2, 3, {"batch_tokens": 6144}),
    "train classifier": Case("train", QWEN_1_5B, 2, 2, {"batch": 4}),
    "train classifier, activations": Case("train", QWEN_1_5B, 2, 2, {"batch": 12}),
    "train classifier, activations computed twice": Case(
        "train", QWEN_1_5B, 2, 2, {"batch": 12, "gradient_checkpointing": True}
    ),
    "train classifier, tower too": Case("train", QWEN_1_5B, 2, 2, {"batch": 4, "tower_rate": 1e-6}),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", nargs="*", default=list(CASES))
    parser.add_argument("--samples", type=int, default=24)
    arguments = parser.parse_args()
    print(
        f"{arguments.samples} samples; {datetime.date.today()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, Python {platform.python_version()}.\n\n"
        "| case | weights, GB | estimate, GB | measured, GB | estimate / measured "
        "| loading / weights | loaded / weights |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.case:
            found = measure(Path(folder), CASES[name], arguments.samples)
            print(
                f"| {name} | {found['weights'] / 1e9:.2f} | {found['estimate'] / 1e9:.2f} "
                f"| {found['peak'] / 1e9:.2f} | {found['estimate'] / found['peak']:.2f} "
                f"| {beside(found, 'loaded')} | {beside(found, 'stays')} |",
                flush=True,
            )


def beside(found: dict[str, int], name: str) -> str:
    """A measured size by the weights' size; a dash where it was not measured."""
    return f"{found[name] / found['weights']:.2f}" if name in found else "-"


def measure(folder: Path, case: Case, samples: int) -> dict[str, int]:
    """Bytes: `weights` and `estimate` as said, `peak` as measured; `loaded` and `stays` too, but
    of a training, which loads and learns in one call."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        sizes = case.geometry, case.layers, case.tower_layers, case.vocabulary
        method = "score" if case.verb == "train" else case.verb
        models = [make_folder(Path(place) / "model", method, *sizes)]
        if case.styler:
            models.append(make_folder(Path(place) / "styler", case.verb, *sizes))
            config = json.loads((models[1] / "config.json").read_text("utf-8"))
            config["mmsieve"]["styles"] = True
            (models[1] / "config.json").write_text(json.dumps(config))
        request = {
            "verb": case.verb,
            "models": [str(model) for model in models],
            "data": str(data(folder, case.verb, samples)),
            "options": case.options,
        }
        command = [sys.executable, "-m", "benchmarks.memory_probe", json.dumps(request)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def data(folder: Path, verb: str, samples: int) -> Path:
    """What the verb reads: drawn captions, instruction samples, or texts at four levels."""
    if verb == "train":
        return labelled(folder / "labelled")
    out = folder / ("instructions" if verb == "rate" else "captions")
    if not out.exists():
        options = GenerateOptions(teacher="rendered", count=samples, quiet=True)
        make = mmsieve.generate_ratings if verb == "rate" else mmsieve.generate_captions
        make(
            out=out,
            options=options if verb == "rate" else replace(options, shards=True, texts_per_image=1),
        )
    return out


def labelled(out: Path) -> Path:
    """Texts as long as a usual caption at four levels, over 12 images and one apart."""
    if not out.exists():
        out.mkdir()
        for name in ("train", "val"):
            records = []
            for number in range(12 if name == "train" else 1):
                image = f"{name}{number}.png"
                Image.effect_noise((384, 384), 40).convert("RGB").save(out / image)
                text = f"<image>\n{' '.join([WORD] * TEXT_TOKENS)}"
                records += [{"image": image, "text": text, "label": level} for level in range(4)]
            (out / f"{name}.json").write_text(json.dumps(records))
    return out


if __name__ == "__main__":
    main()
