"""mmssr-qwen2-7b-styler: a styler at the published size and settings.

Command:   accelerate launch -m mmsieve train rater mmssr-qwen2-7b-styler \
               --data train.json --out styler
Hardware:  8 GPUs of 80 GB with FSDP or DeepSpeed (published: 128); not run by us
Time:      not measured
Expected:  not published
"""

from mmsieve.training.recipe import RaterRecipe
from mmsieve.training.recipes import _published_answers

RECIPE = RaterRecipe(
    name="mmssr-qwen2-7b-styler",
    start=_published_answers.MID_STAGE,
    answers=("styles",),
    rater=_published_answers.STAGE,
    weights="bfloat16",
)
SMOKE = RECIPE.changed(rater=_published_answers.SMOKE)
