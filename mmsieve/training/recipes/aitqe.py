"""AITQE's enhancer with the base models of the paper (arXiv 2410.16166).

Its training was not published: the hyperparameters are those of the raters in `mmssr`, those of the
alignment are LLaVA's, as UniFilter has them.
"""

from mmsieve.training.recipe import Backbone, EnhancerRecipe, Steps
from mmsieve.training.recipes import PUBLISHED, ZERO3, describe
from mmsieve.training.recipes.mmssr import ONE_GPU, SMOKE, STAGE

_WHOLE = EnhancerRecipe(
    name="aitqe-qwen2-7b",
    start=Backbone(language_model="Qwen/Qwen2-7B", vision_tower="google/siglip-so400m-patch14-384"),
    projector=Steps(batch=8, total_batch=512, learning_rate=1e-3, **PUBLISHED),
    enhancer=STAGE,
    weights="bfloat16",
)
_LORA = _WHOLE.changed(name="aitqe-qwen2-7b-lora", enhancer=ONE_GPU)
_SMOKE = {"projector": SMOKE, "enhancer": SMOKE}

RECIPES = (
    describe(
        _WHOLE,
        _WHOLE.changed(**_SMOKE),
        what="an enhancer with the base models of the paper, all of it trained",
        command=f"{ZERO3} -m mmsieve train enhancer \\\n"
        "             aitqe-qwen2-7b --pretrain captions.json --data train.json --out enhancer",
        hardware="8 GPUs of 80 GB with zero3 or fsdp2; not run by us",
    ),
    describe(
        _LORA,
        _LORA.changed(**_SMOKE),
        what="an enhancer with the base models of the paper, on one GPU",
        command="mmsieve train enhancer aitqe-qwen2-7b-lora --pretrain captions.json \\\n"
        "             --data train.json --out enhancer",
        hardware="one GPU of 80 GB; not run by us",
    ),
)
