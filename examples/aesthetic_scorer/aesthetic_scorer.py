"""A scorer of one's own for mmsieve: `--model aesthetic:MODEL`, any Hugging Face image classifier.

`aesthetic_score` is the probability of the model's first label, or of LABEL in MODEL#LABEL; of a
model with one output, that output. Only the first image of a sample is looked at.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import mmsieve


def make(model: str | None, options: mmsieve.ScoringOptions) -> mmsieve.Annotator:
    """The annotator of `aesthetic:MODEL`: what the entry point names."""
    from transformers import AutoConfig  # not above: `mmsieve models` imports this file

    name, _, label = (model or "").partition("#")
    folder = mmsieve.find_folder(name)
    labels = AutoConfig.from_pretrained(folder).id2label
    named = [number for number, text in labels.items() if text == (label or labels[0])]
    if not named:
        allowed = ", ".join(labels.values())
        raise mmsieve.RequestError(f"model {name} has no label {label!r}: give one of {allowed}")
    return Aesthetic(folder, named[0], options)


class Aesthetic(mmsieve.Annotator):
    """A classifier, and which of its labels is the score."""

    schema = pa.schema([("aesthetic_score", pa.float32()), ("num_images", pa.int32())])

    def __init__(self, folder: Path, label: int, options: mmsieve.ScoringOptions) -> None:
        self.folder, self.label, self.options = folder, label, options
        self.notes = (f"aesthetic_score is the probability of label {label} of {folder.name}",)
        self.fingerprint = {
            "method": "aesthetic 1",
            "weights": mmsieve.hash_files([*folder.glob("*.safetensors"), *folder.glob("*.json")]),
            "label": str(label),
            "images": str(options.of_images),
        }

    def preparer(self) -> "AestheticPreparer":
        return AestheticPreparer(self.folder, self.options)

    def runner(self, options: mmsieve.RunnerOptions) -> mmsieve.Runner:
        return AestheticRunner(self.folder, self.label, options)


@dataclass
class AestheticPreparer(mmsieve.Preparer):
    """The CPU half, in processes of its own: a sample -> pixels [3, height, width]."""

    folder: Path
    options: mmsieve.ScoringOptions

    @cached_property
    def processor(self) -> Any:
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(self.folder, backend="pil")

    def prepare(self, sample: mmsieve.Sample) -> Any:
        if not sample.images:
            raise mmsieve.SampleError(mmsieve.Status.IMAGE_MISSING, "no image to score")
        image = sample.images[0]
        pixels = mmsieve.decode(image.data, frame=image.frame, **self.options.of_images)
        return self.processor(images=pixels, return_tensors="np")["pixel_values"][0]


class AestheticRunner(mmsieve.BatchRunner[Any, Any]):
    """The device half: pixels -> rows, in batches that fit into memory."""

    def __init__(self, folder: Path, label: int, options: mmsieve.RunnerOptions) -> None:
        from transformers import AutoModelForImageClassification

        super().__init__(options)
        model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True)
        self.model = model.eval().to(self.device)
        self.label, self.notes = label, {"device": options.device}

    def tokens(self, item: Any) -> int:
        return item.size // (3 * 16 * 16)  # as many as a tower with patches of 16 pixels

    def compute(self, items: list[Any]) -> Any:
        import torch

        with torch.inference_mode():
            logits = self.model(torch.from_numpy(np.stack(items)).to(self.device)).logits
        return (logits if logits.shape[1] == 1 else logits.softmax(1))[:, self.label]

    def rows(self, items: list[Any], computed: Any) -> list[dict[str, Any]]:
        return [{"aesthetic_score": score, "num_images": 1} for score in computed.tolist()]
