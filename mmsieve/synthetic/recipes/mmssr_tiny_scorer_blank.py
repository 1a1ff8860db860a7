"""mmssr-tiny-scorer-blank: mmssr-tiny-scorer shown blank images, what the texts alone give away.

Command:   OMP_NUM_THREADS=1 mmsieve train rater mmssr-tiny-scorer-blank --out blank
Hardware:  one core of an AMD EPYC; the same seed gives the same weights
Time:      39 minutes beside other work
Expected:  python -m benchmarks.rated blank --blank: exact in 0.559 where the picture is needed
"""

from mmsieve.synthetic.recipes import mmssr_tiny_scorer
from mmsieve.training.recipe import Scenes

_SEEN = mmssr_tiny_scorer.RECIPE
assert _SEEN.rater.rendered is not None


def _blank(scenes: Scenes) -> dict[str, Scenes]:
    return {"rendered": scenes.model_copy(update={"blank_images": True})}


RECIPE = _SEEN.changed(name="mmssr-tiny-scorer-blank", rater=_blank(_SEEN.rater.rendered))
SMOKE = RECIPE.changed(rater={"batch": 2, **_blank(Scenes(groups=8))})
