"""The drawn world: scenes with known truth, a teacher that draws, tiny models' recipes, the demo.

It imports the product, which knows it only by what is registered here.
"""

from mmsieve.registry import register

register("teacher", "rendered", "mmsieve.synthetic.teacher")
register("training data", "drawn", "mmsieve.synthetic.training")
register("recipes", "tiny", "mmsieve.synthetic.recipes")
register("verb", "demo", "mmsieve.synthetic.demo:demo")
