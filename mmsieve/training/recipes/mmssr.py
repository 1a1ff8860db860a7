"""mmSSR's scorer and styler at the published sizes.

mmssr_scripts/3_finetune.sh of github.com/lyumengyao/mmssr: 256 samples between updates, one epoch,
tower at a fifth of the rate, from LLaVA-OneVision's mid stage.
"""

from collections.abc import Mapping
from typing import Any

from mmsieve.training.recipe import Lora, RaterRecipe, SftStage
from mmsieve.training.recipes import PUBLISHED, ZERO3, describe

STAGE = SftStage(batch=1, total_batch=256, learning_rate=1e-5, tower_rate=0.2, **PUBLISHED)
"""All of the model learns, on several GPUs: `zero3` or `fsdp2` of `mmsieve.training.accelerate`."""

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
    *(
        describe(
            recipe,
            recipe.changed(rater=SMOKE),
            what=f"a {kind} at the published size and settings",
            command=f"{ZERO3} -m mmsieve train rater \\\n"
            f"             {recipe.name} --data train.json --out {kind}",
            hardware="8 GPUs of 80 GB with zero3 or fsdp2 (published: 128); not run by us",
        )
        for kind, recipe in (("scorer", _SCORER), ("styler", _STYLER))
    ),
    describe(
        _BOTH,
        _BOTH.changed(rater=SMOKE),
        what="scorer and styler in one, on one GPU; also to add a capability",
        command="mmsieve train rater mmssr-qwen2-7b-lora --data train.json --out rater\n"
        "           with --start-from mengyaolyu/mmssr-7b-scorer: a released scorer goes on from "
        "there",
        hardware="one GPU of 80 GB; not run by us",
        expected="not measured",
    ),
)
