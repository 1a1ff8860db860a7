"""Recipes of the bundled tiny models, which learn from drawn scenes; and their controls."""

from mmsieve.training.recipe import (
    Architecture,
    BundledRecipe,
    ClassifierStage,
    EnhancerRecipe,
    Optimisation,
    RaterRecipe,
    Recipe,
    Rendered,
    Scenes,
    SftStage,
    WeightTransfer,
)

_TEXTS = {"core": 0.8, "many": 0.12, "chart": 0.04, "table": 0.04}
_OBJECTS = {"core": 0.5, "many": 0.5}
_CAPTIONS = {"core": 0.9, "many": 0.1}
_INSTRUCTIONS = {"core": 0.94, "chart": 0.06}

_CLASSIFIER = Recipe(
    name="unifilter-tiny",
    start=Architecture(),
    lesson=Optimisation(
        batch=48, learning_rate=2e-3, rendered=Rendered(groups=57_600, families=_OBJECTS)
    ),
    projector=Optimisation(
        batch=12, learning_rate=1e-3, rendered=Rendered(groups=12_000, families=_TEXTS)
    ),
    classifier=ClassifierStage(
        batch=12,
        learning_rate=4e-4,
        tower_rate=0.3,
        captioning=1.0,
        wrong_words=1.0,
        rendered=Rendered(groups=120_000, families=_TEXTS),
    ),
)
_CLASSIFIER_SMOKE = _CLASSIFIER.changed(
    start={"hidden": 32, "layers": 1, "heads": 2, "intermediate": 64},
    lesson={"batch": 8, "rendered": Rendered(groups=32, families=_OBJECTS)},
    projector={"batch": 4, "rendered": Rendered(groups=16, families=_TEXTS)},
    classifier={"batch": 4, "rendered": Rendered(groups=24, families=_TEXTS)},
)


def _blank(recipe: Recipe) -> Recipe:
    rendered = recipe.classifier.rendered
    assert rendered is not None
    blank = rendered.model_copy(update={"blank_images": True})
    return recipe.changed(name="unifilter-tiny-blank", classifier={"rendered": blank})


_ENHANCER = EnhancerRecipe(
    name="aitqe-tiny",
    start=WeightTransfer(),
    enhancer=SftStage(
        batch=8,
        learning_rate=6e-4,
        tower_rate=0.3,
        rendered=Scenes(groups=12_000, families=_CAPTIONS),
    ),
)
_SCORER = RaterRecipe(
    name="mmssr-tiny-scorer",
    start=WeightTransfer(),
    answers=("ratings",),
    rater=SftStage(
        batch=12,
        learning_rate=6e-4,
        tower_rate=0.3,
        rendered=Scenes(groups=60_000, families=_INSTRUCTIONS),
    ),
)
_BLANK_SCORER = _SCORER.changed(
    name="mmssr-tiny-scorer-blank",
    rater={"rendered": Scenes(groups=60_000, families=_INSTRUCTIONS, blank_images=True)},
)
_STYLER = _SCORER.changed(
    name="mmssr-tiny-styler",
    answers=("styles",),
    rater={"tower_rate": 0.0, "rendered": Scenes(groups=24_000, families=_INSTRUCTIONS)},
)
_RATER_SMOKE = {"batch": 2, "rendered": Scenes(groups=8, families=_INSTRUCTIONS)}

RECIPES = (
    BundledRecipe(
        recipe=_CLASSIFIER,
        smoke=_CLASSIFIER_SMOKE,
        about="""\
unifilter-tiny: the bundled quality classifier, from nothing, on rendered scenes.

Command:   OMP_NUM_THREADS=1 mmsieve train classifier unifilter-tiny --out unifilter-tiny
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      52 minutes
Expected:  python -m benchmarks.held_out unifilter-tiny: accuracy 1.000 on captions and on
           documents of the core family, 0.92 to 0.95 on captions of many objects

In two stages: train projector (the tower's pretext task, then the projector alone), then train
classifier with --start-from.
""",
    ),
    BundledRecipe(
        recipe=_blank(_CLASSIFIER),
        smoke=_blank(_CLASSIFIER_SMOKE),
        about="""\
unifilter-tiny-blank: a control. The same training as unifilter-tiny's, shown blank images.

Command:   OMP_NUM_THREADS=1 mmsieve train classifier unifilter-tiny-blank --out blank
           python -m benchmarks.held_out --blank blank
Hardware:  one core of an AMD EPYC
Time:      50 minutes
Expected:  accuracy of chance, 0.25, on captions of the core family
""",
    ),
    BundledRecipe(
        recipe=_ENHANCER,
        smoke=_ENHANCER.changed(
            enhancer={"batch": 2, "rendered": Scenes(groups=8, families=_CAPTIONS)}
        ),
        about="""\
aitqe-tiny: the bundled enhancer, on rendered scenes with a good and a poor caption each.

Command:   OMP_NUM_THREADS=1 mmsieve train enhancer aitqe-tiny --out aitqe-tiny
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      16 minutes beside other work
Expected:  python -m benchmarks.rewritten: Spearman 0.9988, all rewrites true

It starts from unifilter-tiny, which reads these pictures already (mmsieve.synthetic.transfer).
With --no-negatives or --no-rewriting: the ablations.
""",
    ),
    BundledRecipe(
        recipe=_SCORER,
        smoke=_SCORER.changed(rater=_RATER_SMOKE),
        about="""\
mmssr-tiny-scorer: the bundled scorer of 14 capabilities, on rendered instruction samples.

Command:   OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-scorer --out mmssr-tiny-scorer
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      36 minutes beside other work
Expected:  python -m benchmarks.rated: ratings exact in 0.935, within one in 0.961

It starts from unifilter-tiny, which reads these pictures already (mmsieve.synthetic.transfer).
""",
    ),
    BundledRecipe(
        recipe=_BLANK_SCORER,
        smoke=_BLANK_SCORER.changed(
            rater={"batch": 2, "rendered": Scenes(groups=8, blank_images=True)}
        ),
        about="""\
mmssr-tiny-scorer-blank: mmssr-tiny-scorer shown blank images, what the texts alone give away.

Command:   OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-scorer-blank --out blank
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      39 minutes beside other work
Expected:  python -m benchmarks.rated blank --blank: exact in 0.559 where the picture is needed
""",
    ),
    BundledRecipe(
        recipe=_STYLER,
        smoke=_STYLER.changed(rater=_RATER_SMOKE),
        about="""\
mmssr-tiny-styler: the bundled styler, on rendered instruction samples.

Command:   OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-styler --out mmssr-tiny-styler
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      10 minutes beside other work
Expected:  python -m benchmarks.rated --styler mmssr-tiny-styler: micro F1 0.997
""",
    ),
)
