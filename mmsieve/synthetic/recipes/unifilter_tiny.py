"""unifilter-tiny: the bundled quality classifier, from nothing, on rendered scenes.

Command:   OMP_NUM_THREADS=1 mmsieve train classifier unifilter-tiny --out unifilter-tiny
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      52 minutes
Expected:  python -m benchmarks.held_out unifilter-tiny: accuracy 1.000 on captions and on
           documents of the core family, 0.92 to 0.95 on captions of many objects

In two stages: train projector (the tower's lesson, then the projector alone), then train
classifier with --start-from.
"""

from mmsieve.training.recipe import Architecture, ClassifierStage, Optimisation, Recipe, Rendered

_MIXED = {"core": 0.8, "many": 0.12, "chart": 0.04, "table": 0.04}
_THINGS = {"core": 0.5, "many": 0.5}

RECIPE = Recipe(
    name="unifilter-tiny",
    start=Architecture(),
    lesson=Optimisation(
        batch=48, learning_rate=2e-3, rendered=Rendered(groups=57_600, families=_THINGS)
    ),
    projector=Optimisation(
        batch=12, learning_rate=1e-3, rendered=Rendered(groups=12_000, families=_MIXED)
    ),
    classifier=ClassifierStage(
        batch=12,
        learning_rate=4e-4,
        tower_rate=0.3,
        captioning=1.0,
        wrong_words=1.0,
        rendered=Rendered(groups=120_000, families=_MIXED),
    ),
)

SMOKE = RECIPE.changed(
    start={"hidden": 32, "layers": 1, "heads": 2, "intermediate": 64},
    lesson={"batch": 8, "rendered": Rendered(groups=32, families=_THINGS)},
    projector={"batch": 4, "rendered": Rendered(groups=16, families=_MIXED)},
    classifier={"batch": 4, "rendered": Rendered(groups=24, families=_MIXED)},
)
