"""How a contestant talks to the benchmark; standard library only, it runs in any environment."""

import json
import sys
import time
from collections.abc import Callable

ANSWERS = sys.stdout
sys.stdout = sys.stderr  # what libraries print must not get between the answers


def serve(score_all: Callable[[], dict[str, float]]) -> None:
    """Answer each line on stdin with the seconds that scoring took and the scores by key."""
    ANSWERS.write('{"ready": true}\n')
    ANSWERS.flush()
    for _ in sys.stdin:
        started = time.perf_counter()
        scores = score_all()
        seconds = time.perf_counter() - started
        ANSWERS.write(json.dumps({"seconds": seconds, "scores": scores}) + "\n")
        ANSWERS.flush()
