"""unifilter-tiny-blank: a control. The same training as unifilter-tiny's, shown blank images.

Command:   OMP_NUM_THREADS=1 mmsieve train classifier unifilter-tiny-blank --out blank
           python -m benchmarks.held_out --blank blank
Hardware:  one core of an AMD EPYC
Time:      50 minutes
Expected:  accuracy of chance, 0.25, on captions of the core family
"""

from mmsieve.synthetic.recipes import unifilter_tiny
from mmsieve.training.recipe import Recipe


def _blank(recipe: Recipe) -> Recipe:
    rendered = recipe.classifier.rendered
    assert rendered is not None
    blank = rendered.model_copy(update={"blank_images": True})
    return recipe.changed(name="unifilter-tiny-blank", classifier={"rendered": blank})


RECIPE = _blank(unifilter_tiny.RECIPE)
SMOKE = _blank(unifilter_tiny.SMOKE)
