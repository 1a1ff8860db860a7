"""A stand-in for a Ray cluster: work is carried out here, after its way to a node and back."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmsieve.engine.crew import Failure


class FakeEngine:
    """Carries out what it is given, or says that the workers died."""

    problem = ""
    details: str | None = None
    deadly: str | None = None
    """The item at which they die where there is a problem; by default all of them."""
    elsewhere: Path | None = None
    """The folder of an export from which what is written is gone at once."""
    sent = b""
    """What nodes were given."""
    joined = 0
    """How often it was joined."""
    ends_with: Exception | None = None
    """What is raised after the first item."""

    def __init__(self, *how: object) -> None:
        type(self).joined += 1

    def run_each(
        self, make: Callable[[], Any], items: Sequence[Any], *how: object
    ) -> Iterator[tuple[Any, object]]:
        """Each item and what the actor makes of it, in their order."""
        given = pickle.dumps((make, items))
        type(self).sent += given
        make, items = pickle.loads(given)
        actor = make()
        for item in items:
            if self.problem and self.deadly in (None, item.name):
                yield item, Failure(self.problem, self.details)
                continue
            found = pickle.loads(pickle.dumps(actor.run(item)))
            if self.elsewhere is not None:
                (self.elsewhere / item.name).unlink()
            yield item, found
            if self.ends_with is not None:
                raise self.ends_with


def stand_in(monkeypatch: Any, verb: str) -> type[FakeEngine]:
    """Put it in the place of a verb's Ray engine."""
    engine = type("Engine", (FakeEngine,), {})
    monkeypatch.setattr(f"mmsieve.verbs.{verb}.RayEngine", engine)
    return engine
