"""Recipes of the bundled tiny models, which learn from drawn scenes; and their controls."""

from mmsieve.training.recipe import (
    Architecture,
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
from mmsieve.training.recipes import describe

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

_CORE = "one core of an AMD EPYC"
_SAME = f"{_CORE}; the same seed gives the same weights"
_FROM = "It starts from unifilter-tiny, which reads these pictures already"
_FROM += " (mmsieve.synthetic.transfer)."

RECIPES = (
    describe(
        _CLASSIFIER,
        _CLASSIFIER_SMOKE,
        what="the bundled quality classifier, from nothing, on rendered scenes",
        command="OMP_NUM_THREADS=1 mmsieve train classifier unifilter-tiny --out unifilter-tiny",
        hardware=_SAME,
        time="52 minutes",
        expected="python -m benchmarks.held_out unifilter-tiny: accuracy 1.000 on captions and on\n"
        "           documents of the core family, 0.92 to 0.95 on captions of many objects",
        more="In two stages: train projector (the tower's pretext task, then the projector alone), "
        "then train\nclassifier with --start-from.",
    ),
    describe(
        _blank(_CLASSIFIER),
        _blank(_CLASSIFIER_SMOKE),
        what="a control. The same training as unifilter-tiny's, shown blank images",
        command="OMP_NUM_THREADS=1 mmsieve train classifier unifilter-tiny-blank --out blank\n"
        "           python -m benchmarks.held_out --blank blank",
        hardware=_CORE,
        time="50 minutes",
        expected="accuracy of chance, 0.25, on captions of the core family",
    ),
    describe(
        _ENHANCER,
        _ENHANCER.changed(enhancer={"batch": 2, "rendered": Scenes(groups=8, families=_CAPTIONS)}),
        what="the bundled enhancer, on rendered scenes with a good and a poor caption each",
        command="OMP_NUM_THREADS=1 mmsieve train enhancer aitqe-tiny --out aitqe-tiny",
        hardware=_SAME,
        time="16 minutes beside other work",
        expected="python -m benchmarks.rewritten: Spearman 0.9988, all rewrites true",
        more=f"{_FROM}\nWith --no-negatives or --no-rewriting: the ablations.",
    ),
    describe(
        _SCORER,
        _SCORER.changed(rater=_RATER_SMOKE),
        what="the bundled scorer of 14 capabilities, on rendered instruction samples",
        command="OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-scorer --out mmssr-tiny-scorer",
        hardware=_SAME,
        time="36 minutes beside other work",
        expected="python -m benchmarks.rated: ratings exact in 0.935, within one in 0.961",
        more=_FROM,
    ),
    describe(
        _BLANK_SCORER,
        _BLANK_SCORER.changed(rater={"batch": 2, "rendered": Scenes(groups=8, blank_images=True)}),
        what="mmssr-tiny-scorer shown blank images, what the texts alone give away",
        command="OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-scorer-blank --out blank",
        hardware=_SAME,
        time="39 minutes beside other work",
        expected="python -m benchmarks.rated blank --blank: exact in 0.559 where the picture is "
        "needed",
    ),
    describe(
        _STYLER,
        _STYLER.changed(rater=_RATER_SMOKE),
        what="the bundled styler, on rendered instruction samples",
        command="OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-styler --out mmssr-tiny-styler",
        hardware=_SAME,
        time="10 minutes beside other work",
        expected="python -m benchmarks.rated --styler mmssr-tiny-styler: micro F1 0.997",
    ),
)
