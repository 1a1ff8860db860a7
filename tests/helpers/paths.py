"""Where the recorded data of the tests lie."""

from pathlib import Path

RECORDED_DATA = Path(__file__).parent.parent / "data"
"""Small checkpoints, inputs and outputs, recorded with the published code."""
