"""aitqe-qwen2-7b: an enhancer with the base models of the paper, all of it trained.

Command:   mmsieve train enhancer aitqe-qwen2-7b --data train.json --out enhancer
Hardware:  8 GPUs of 80 GB with FSDP or DeepSpeed; not run by us
Time:      not measured
Expected:  not published
"""

from mmsieve.training.recipe import Backbone, EnhancerRecipe
from mmsieve.training.recipes import _published_answers

RECIPE = EnhancerRecipe(
    name="aitqe-qwen2-7b",
    start=Backbone(
        language_model=_published_answers.LANGUAGE_MODEL,
        vision_tower=_published_answers.VISION_TOWER,
    ),
    enhancer=_published_answers.STAGE,
    weights="bfloat16",
)
SMOKE = RECIPE.changed(enhancer=_published_answers.SMOKE)
