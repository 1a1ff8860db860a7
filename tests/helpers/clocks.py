"""A clock for tests: waiting takes no time, and everybody can see how much was waited for."""

import asyncio
from collections.abc import Callable

from mmsieve.patience import Clock


class FakeClock(Clock):
    """Time that only passes while somebody waits for it."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []
        """Seconds of each wait."""
        self.passed: Callable[[], None] = lambda: None
        """Called when some time has passed."""

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        until = self.time + seconds
        self.slept.append(seconds)
        await asyncio.sleep(0.001)  # whatever is under way goes on
        self.time = max(self.time, until)
        self.passed()
