"""Waiting that is neither silent nor for ever: for a cluster, a server, a model."""

import asyncio
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from mmsieve.errors import MmsieveError
from mmsieve.sanitize import write

PATIENCE = timedelta(minutes=30)
"""How long is waited by default."""
_FIRST_WORDS = 60.0
"""Seconds of waiting after which it is said; then after twice as many, and so on."""


class Clock:
    """The time, and waiting until some of it has passed; tests have one of their own."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Patience:
    """Waiting that is not silent: after a minute it is said for what, after `most` given up."""

    def __init__(self, most: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most.total_seconds()
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """Something has happened: waiting begins anew."""
        self._since, self._next = self._clock(), _FIRST_WORDS

    def check(self, awaited: Callable[[], str]) -> None:
        """Nothing has happened yet; raises MmsieveError where it took too long."""
        waited = self._clock() - self._since
        if waited >= self._most:
            fix = "the same command, with more --patience, goes on where this one stopped"
            raise MmsieveError(f"gave up after {waited:.0f} s of waiting for {awaited()}; {fix}")
        if waited >= self._next:
            self._next = 2 * waited
            most = f"gives up after {self._most:.0f} s (--patience)"
            write(f"waiting for {waited:.0f} s now for {awaited()}; {most}", sys.stderr)
