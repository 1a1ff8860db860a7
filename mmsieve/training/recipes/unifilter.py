"""UniFilter at the published sizes, whatever the backbone.

Hyperparameters of LLaVA/scripts/v1_5/pretrain.sh and train_classifier.sh (Victorwz/UniFilter):
stage 1 sees 512 captions between updates, stage 2 512 texts, here 128 groups of four.
"""

from mmsieve.training.recipe import BundledRecipe, ClassifierStage, Optimisation, Pretrained, Recipe
from mmsieve.training.recipes import PUBLISHED, describe

_SIGLIP, _SIGLIP2 = "google/siglip-so400m-patch14-384", "google/siglip2-so400m-patch14-384"

_COMMAND = """\
mmsieve train projector {name} --out projector
             --data blip_laion_cc_sbu_558k.json --images LLaVA-Pretrain
           mmsieve train classifier {name} --out classifier
             --start-from projector --data train.json --val val.json --images images
           (on several GPUs: accelerate launch --config_file ddp.yaml -m mmsieve train ...,
           the config from python -m mmsieve.training.accelerate ddp > ddp.yaml)"""


def _published(
    name: str, language_model: str, vision_tower: str, what: str, expected: str
) -> BundledRecipe:
    """The recipe for a backbone: one epoch for the projector, then ten for the classifier."""
    recipe = Recipe(
        name=name,
        start=Pretrained(language_model=language_model, vision_tower=vision_tower),
        projector=Optimisation(batch=64, total_batch=512, learning_rate=1e-3, **PUBLISHED),
        classifier=ClassifierStage(
            batch=8, total_batch=128, learning_rate=2e-5, epochs=10, **PUBLISHED
        ),
        weights="bfloat16",
    )
    # One pass in small steps, for a file of a few records.
    less = {"batch": 1, "total_batch": None, "epochs": 1, "precision": "float32"}
    smoke = recipe.changed(projector=less, classifier=less)
    return describe(
        recipe,
        smoke,
        what=what,
        command=_COMMAND.format(name=name),
        hardware="8 GPUs of 80 GB in the published scripts; any number here, total_batch stays",
        time="not measured here",
        expected=expected,
    )


RECIPES = (
    _published(
        "unifilter-qwen2.5-0.5b",
        "Qwen/Qwen2.5-0.5B-Instruct",
        _SIGLIP,
        "UniFilter on Qwen2.5-0.5B and SigLIP, as in the paper's Table 2",
        "accuracy 94.8, macro F1 93.8 on the paper's own validation set (Table 2)",
    ),
    _published(
        "unifilter-qwen2.5-1.5b",
        "Qwen/Qwen2.5-1.5B-Instruct",
        _SIGLIP,
        "UniFilter on Qwen2.5-1.5B and SigLIP, the paper's best",
        "accuracy 95.2, macro F1 94.3 on the paper's own validation set (Table 2)",
    ),
    _published(
        "unifilter-qwen3-0.6b",
        "Qwen/Qwen3-0.6B",
        _SIGLIP2,
        "UniFilter on Qwen3-0.6B and SigLIP 2, as in the newer release",
        "no number was published",
    ),
)
