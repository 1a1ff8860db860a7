"""aitqe-tiny: the bundled enhancer, on rendered scenes with a good and a poor caption each.

Command:   OMP_NUM_THREADS=1 mmsieve train enhancer aitqe-tiny --out aitqe-tiny
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      16 minutes beside other work
Expected:  python -m benchmarks.rewritten: Spearman 0.9988, all rewrites true

It starts from unifilter-tiny, which reads these pictures already (mmsieve.train.answers.carried).
With --no-negatives or --no-rewriting: the ablations.
"""

from mmsieve.training.recipe import AnswerStage, Carry, EnhancerRecipe, Scenes

_MIXED = {"core": 0.9, "many": 0.1}

RECIPE = EnhancerRecipe(
    name="aitqe-tiny",
    start=Carry(),
    enhancer=AnswerStage(
        batch=8,
        learning_rate=6e-4,
        tower_rate=0.3,
        rendered=Scenes(groups=12_000, families=_MIXED),
    ),
)

SMOKE = RECIPE.changed(enhancer={"batch": 2, "rendered": Scenes(groups=8, families=_MIXED)})
