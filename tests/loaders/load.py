"""Loads files with `datasets` and TRL, in an environment that has them and not mmsieve.

Reads a list of requests as JSON from standard input (`loader`, `path`, more), and writes for each
what was found there. No network: everything is a file.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

import datasets

datasets.disable_progress_bars()


def load(loader: str, path: str, files: str | None, cache: str) -> Any:
    """A data set by one of the loaders of `datasets`."""
    if loader == "saved":
        return datasets.load_from_disk(path)
    where = {"data_dir": path} if files is None else {"data_files": sorted(_glob(path, files))}
    return datasets.load_dataset(loader, split="train", cache_dir=cache, **where)


def _glob(folder: str, pattern: str) -> list[str]:
    return list(map(str, Path(folder).glob(pattern)))


def describe(value: Any) -> Any:
    """A value as JSON, a picture as its size and format."""
    if hasattr(value, "getbbox"):
        return [*value.size, value.format]
    if isinstance(value, dict):
        return {name: describe(inner) for name, inner in value.items() if name != "__url__"}
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return list(map(describe, value)) if isinstance(value, list) else value


def with_pictures(found: Any, folder: str) -> Any:
    """The data set with its columns of image paths as pictures, as TRL's documentation has it."""
    for name in ("image", "images"):
        feature = found.features.get(name)
        is_list = isinstance(feature, datasets.List)
        inner = feature.feature if is_list else feature
        if inner == datasets.Value("string"):
            found = found.map(lambda row, name=name: {name: _below(folder, row[name])})
        if inner is not None:
            image = datasets.Image()
            found = found.cast_column(name, datasets.List(image) if is_list else image)
    return found


def _below(folder: str, value: Any) -> Any:
    return (
        [_below(folder, one) for one in value] if isinstance(value, list) else f"{folder}/{value}"
    )


def fine_tune(found: Any, model: str, out: str) -> dict[str, Any]:
    """Two steps of TRL's supervised fine-tuning; the shapes that its preparation made."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import SFTConfig, SFTTrainer

    processor = AutoProcessor.from_pretrained(model)
    options = SFTConfig(
        output_dir=out,
        max_steps=2,
        per_device_train_batch_size=2,
        max_length=None,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = SFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(model),
        args=options,
        train_dataset=found,
        processing_class=processor,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.train().training_loss
    shapes = {name: list(value.shape) for name, value in batch.items()}
    return {"shapes": shapes, "loss": loss, "labels": int((batch["labels"] >= 0).sum())}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    path, cache = request["path"], request["cache"]
    found = load(request["loader"], path, request.get("files"), cache)
    if request.get("images"):
        found = with_pictures(found, request["images"])
    said: dict[str, Any] = {"rows": [describe(row) for row in found]}
    if model := request.get("model"):
        said["sft"] = fine_tune(found, model, f"{cache}/sft")
    return said


if __name__ == "__main__":
    answers = [answer(request) for request in json.load(sys.stdin)]
    sys.stdout.write("\n" + json.dumps(answers) + "\n")
