"""The drawn world: scenes with known truth, a teacher that draws, tiny models' recipes, the demo.

It imports the product, which knows it only by what is registered here.
"""

from pathlib import Path

from mmsieve.registry import register

register("teacher", "rendered", "mmsieve.synthetic.teacher")
register("training data", "drawn", "mmsieve.synthetic.training")
register("recipes", "tiny", str(Path(__file__).parent / "recipes"))
register("verb", "demo", "mmsieve.synthetic.demo:demo")
