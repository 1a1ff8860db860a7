"""aitqe-qwen2-7b-lora: an enhancer with the base models of the paper, on one GPU.

Command:   mmsieve train enhancer aitqe-qwen2-7b-lora --data train.json --out enhancer
Hardware:  one GPU of 80 GB; not run by us
Time:      not measured
Expected:  not published
"""

from mmsieve.training.recipe import Backbone, EnhancerRecipe
from mmsieve.training.recipes import _published_answers

RECIPE = EnhancerRecipe(
    name="aitqe-qwen2-7b-lora",
    start=Backbone(
        language_model=_published_answers.LANGUAGE_MODEL,
        vision_tower=_published_answers.VISION_TOWER,
    ),
    enhancer=_published_answers.STAGE,
    weights="bfloat16",
).changed(enhancer=_published_answers.ONE_GPU)
SMOKE = RECIPE.changed(enhancer=_published_answers.SMOKE)
