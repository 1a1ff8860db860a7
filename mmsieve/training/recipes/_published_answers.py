"""Raters and enhancers at the published sizes.

Raters: mmssr_scripts/3_finetune.sh of github.com/lyumengyao/mmssr (256 samples between updates,
one epoch, tower at a fifth of the rate, from LLaVA-OneVision's mid stage). AITQE's training was not
published: base models as in the paper, the other values as for raters.
"""

from collections.abc import Mapping
from typing import Any

from mmsieve.training.recipe import AnswerStage, Lora

MID_STAGE = "lmms-lab/llava-onevision-qwen2-7b-mid-stage-a4"
LANGUAGE_MODEL, VISION_TOWER = "Qwen/Qwen2-7B", "google/siglip-so400m-patch14-384"

STAGE = AnswerStage(
    batch=1,
    total_batch=256,
    learning_rate=1e-5,
    tower_rate=0.2,
    warmup=0.03,
    weight_decay=0,
    beta2=0.999,
    precision="bfloat16",
    gradient_checkpointing=True,
)
"""All of the model learns: several GPUs, with FSDP or DeepSpeed."""

ONE_GPU: Mapping[str, Any] = {
    "total_batch": 64,
    "learning_rate": 1e-4,
    "tower_rate": 0.0,
    "lora": Lora(rank=32, alpha=64),
}
"""What makes it fit on one GPU of 80 GB: adapters on the language model, the tower as it is."""

SMOKE: Mapping[str, Any] = {"total_batch": None, "precision": "float32"}
"""For a file of a few records."""
