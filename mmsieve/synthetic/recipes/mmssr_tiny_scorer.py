"""mmssr-tiny-scorer: the bundled scorer of 14 capabilities, on rendered instruction samples.

Command:   OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-scorer --out mmssr-tiny-scorer
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      36 minutes beside other work
Expected:  python -m benchmarks.rated: ratings exact in 0.935, within one in 0.961

It starts from unifilter-tiny, which reads these pictures already (mmsieve.train.answers.carried).
"""

from mmsieve.training.recipe import AnswerStage, Carry, RaterRecipe, Scenes

_MIXED = {"core": 0.94, "chart": 0.06}

RECIPE = RaterRecipe(
    name="mmssr-tiny-scorer",
    start=Carry(),
    answers=("ratings",),
    rater=AnswerStage(
        batch=12,
        learning_rate=6e-4,
        tower_rate=0.3,
        rendered=Scenes(groups=60_000, families=_MIXED),
    ),
)

SMOKE = RECIPE.changed(rater={"batch": 2, "rendered": Scenes(groups=8, families=_MIXED)})
