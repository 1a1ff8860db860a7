"""Classifiers from and to folders in the published layout."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor

from mmsieve.models.build import build_model
from mmsieve.models.classifier import QualityClassifier, QualityConfig
from mmsieve.models.released import ARCHITECTURES, Checkpoint
from mmsieve.models.tokenizer import FILES
from mmsieve.models.tower import INSIDE


def load_classifier(checkpoint: Checkpoint, dtype: str = "float32") -> QualityClassifier:
    """The classifier of a checkpoint folder, on the CPU, ready to score.

    Raises RequestError where tensors are missing or of another shape than the config says.
    """
    tensors: dict[Path, dict[str, str]] = {}
    for name, file in checkpoint.tensors.items():
        if not name.startswith(INSIDE):
            tensors.setdefault(file, {})[name] = name
    for stock, (file, name) in checkpoint.tower.tensors.items():
        if not stock.startswith("head."):  # the pooling head is never used
            tensors.setdefault(file, {})[name] = f"{INSIDE}vision_model.{stock}"
    state: dict[str, Tensor] = {}
    for file, names in tensors.items():
        with safe_open(file, "pt") as opened:
            state |= {ours: opened.get_tensor(theirs) for theirs, ours in names.items()}
    config = QualityConfig.of(checkpoint)
    model: QualityClassifier
    model, _ = build_model(QualityClassifier, config, state, dtype, checkpoint.folder)
    return model


def save_classifier(
    model: QualityClassifier, folder: Path, like: Checkpoint, own: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint folder that the published code and mmsieve both read.

    Config and tokenizer are those of `like`, the checkpoint that the model was built from. `own`
    (`image_fit`, `max_text_tokens`, `plain_text`) is how a model trained by mmsieve wants its
    inputs; with it the folder stands alone: the tower inside it is the one that is used. The
    tower's pooling head, which neither code uses, is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(model.state_dict(), folder)
    (folder / "config.json").write_text(json.dumps(_config(model, like, own), indent=2) + "\n")
    for name in FILES:
        if (like.folder / name).is_file():
            shutil.copyfile(like.folder / name, folder / name)


def _config(
    model: QualityClassifier, like: Checkpoint, own: dict[str, Any] | None
) -> dict[str, Any]:
    labels = model.config.num_labels
    left_out = ("id2label", "label2id", "num_labels", "dtype")
    config = {name: value for name, value in like.config.items() if name not in left_out}
    config["architectures"] = [ARCHITECTURES[config["model_type"]]]
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    if labels != 2:  # two is the default, which the published code leaves out
        config["id2label"] = {str(n): f"LABEL_{n}" for n in range(labels)}
        config["label2id"] = {f"LABEL_{n}": n for n in range(labels)}
    if own is not None:
        config["mmsieve"] = own | {"vision_config": like.tower.config, "image": asdict(like.image)}
    return config
