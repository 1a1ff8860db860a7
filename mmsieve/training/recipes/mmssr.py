"""mmSSR's scorer and styler at the published sizes.

mmssr_scripts/3_finetune.sh of github.com/lyumengyao/mmssr: 256 samples between updates, one epoch,
tower at a fifth of the rate, from LLaVA-OneVision's mid stage.
"""

from collections.abc import Mapping
from typing import Any

from mmsieve.training.recipe import BundledRecipe, Lora, RaterRecipe, SftStage
from mmsieve.training.recipes import PUBLISHED

STAGE = SftStage(batch=1, total_batch=256, learning_rate=1e-5, tower_rate=0.2, **PUBLISHED)
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

_SCORER = RaterRecipe(
    name="mmssr-qwen2-7b-scorer",
    start="lmms-lab/llava-onevision-qwen2-7b-mid-stage-a4",
    answers=("ratings",),
    rater=STAGE,
    weights="bfloat16",
)
_STYLER = _SCORER.changed(name="mmssr-qwen2-7b-styler", answers=("styles",))
_BOTH = _SCORER.changed(name="mmssr-qwen2-7b-lora", answers=("ratings", "styles"), rater=ONE_GPU)

RECIPES = (
    BundledRecipe(
        recipe=_SCORER,
        smoke=_SCORER.changed(rater=SMOKE),
        about="""\
mmssr-qwen2-7b-scorer: a scorer at the published size and settings.

Command:   accelerate launch -m mmsieve train rater mmssr-qwen2-7b-scorer \
               --data train.json --out scorer
Hardware:  8 GPUs of 80 GB with FSDP or DeepSpeed (published: 128); not run by us
Time:      not measured
Expected:  not published
""",
    ),
    BundledRecipe(
        recipe=_STYLER,
        smoke=_STYLER.changed(rater=SMOKE),
        about="""\
mmssr-qwen2-7b-styler: a styler at the published size and settings.

Command:   accelerate launch -m mmsieve train rater mmssr-qwen2-7b-styler \
               --data train.json --out styler
Hardware:  8 GPUs of 80 GB with FSDP or DeepSpeed (published: 128); not run by us
Time:      not measured
Expected:  not published
""",
    ),
    BundledRecipe(
        recipe=_BOTH,
        smoke=_BOTH.changed(rater=SMOKE),
        about="""\
mmssr-qwen2-7b-lora: scorer and styler in one, on one GPU; also to add a capability.

Command:   mmsieve train rater mmssr-qwen2-7b-lora --data train.json --out rater
           with --start-from mengyaolyu/mmssr-7b-scorer: a released scorer goes on from there
Hardware:  one GPU of 80 GB; not run by us
Time:      not measured
Expected:  not measured
""",
    ),
)
