"""mmssr-qwen2-7b-lora: scorer and styler in one, on one GPU; also to add a capability.

Command:   mmsieve train rater mmssr-qwen2-7b-lora --data train.json --out rater
           with --start-from mengyaolyu/mmssr-7b-scorer: a released scorer goes on from there
Hardware:  one GPU of 80 GB; not run by us
Time:      not measured
Expected:  not measured
"""

from mmsieve.training.recipe import RaterRecipe
from mmsieve.training.recipes import _published_answers

RECIPE = RaterRecipe(
    name="mmssr-qwen2-7b-lora",
    start=_published_answers.MID_STAGE,
    rater=_published_answers.STAGE,
    weights="bfloat16",
).changed(rater=_published_answers.ONE_GPU)
SMOKE = RECIPE.changed(rater=_published_answers.SMOKE)
