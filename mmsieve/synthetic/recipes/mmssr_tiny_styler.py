"""mmssr-tiny-styler: the bundled styler, on rendered instruction samples.

Command:   OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-styler --out mmssr-tiny-styler
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      10 minutes beside other work
Expected:  python -m benchmarks.rated --styler mmssr-tiny-styler: micro F1 0.997
"""

from mmsieve.training.recipe import AnswerStage, Carry, RaterRecipe, Scenes

_MIXED = {"core": 0.94, "chart": 0.06}

RECIPE = RaterRecipe(
    name="mmssr-tiny-styler",
    start=Carry(),
    answers=("styles",),
    rater=AnswerStage(
        batch=12,
        learning_rate=6e-4,
        tower_rate=0.0,
        rendered=Scenes(groups=24_000, families=_MIXED),
    ),
)

SMOKE = RECIPE.changed(rater={"batch": 2, "rendered": Scenes(groups=8, families=_MIXED)})
