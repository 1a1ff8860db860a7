"""The published training of UniFilter, whatever the backbone.

Hyperparameters of LLaVA/scripts/v1_5/pretrain.sh and train_classifier.sh (Victorwz/UniFilter):
stage 1 sees 512 captions between updates, stage 2 512 texts, here 128 groups of four.
"""

from mmsieve.training.recipe import ClassifierStage, Optimisation, Pretrained, Recipe


def published(name: str, language_model: str, vision_tower: str) -> Recipe:
    """The recipe for a backbone: one epoch for the projector, then ten for the classifier."""
    return Recipe(
        name=name,
        start=Pretrained(language_model=language_model, vision_tower=vision_tower),
        projector=Optimisation(
            batch=64,
            total_batch=512,
            learning_rate=1e-3,
            warmup=0.03,
            weight_decay=0,
            beta2=0.999,
            precision="bfloat16",
            gradient_checkpointing=True,
        ),
        classifier=ClassifierStage(
            batch=8,
            total_batch=128,
            learning_rate=2e-5,
            epochs=10,
            warmup=0.03,
            weight_decay=0,
            beta2=0.999,
            precision="bfloat16",
            gradient_checkpointing=True,
        ),
        weights="bfloat16",
    )


def smoke(recipe: Recipe) -> Recipe:
    """The same in one pass and small steps: for a file of a few records."""
    less = {"batch": 1, "total_batch": None, "epochs": 1, "precision": "float32"}
    return recipe.changed(projector=less, classifier=less)
