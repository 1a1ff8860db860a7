"""A stand-in for a Ray cluster: work is carried out here, after its way to a node and back."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmsieve.engine.crew import Failure


class FakeEngine:
    """Carries out what it is given, or says that the workers died."""

    problem = ""
    deadly: str | None = None
    """The item at which they die where there is a problem; by default all of them."""
    elsewhere: Path | None = None
    """The folder of an export from which what is written is gone at once."""
    sent = b""
    """What nodes were given."""

    def __init__(self, *how: object) -> None:
        pass

    def run_each(
        self, make: Callable[[], Any], items: Sequence[Any]
    ) -> Iterator[tuple[Any, object]]:
        """Each item and what the actor makes of it, in their order."""
        given = pickle.dumps((make, items))
        type(self).sent += given
        make, items = pickle.loads(given)
        actor = make()
        for item in items:
            if self.problem and self.deadly in (None, item.name):
                yield item, Failure(self.problem)
                continue
            found = pickle.loads(pickle.dumps(actor.run(item)))
            if self.elsewhere is not None:
                (self.elsewhere / item.name).unlink()
            yield item, found


def stand_in(monkeypatch: Any, verb: str) -> type[FakeEngine]:
    """Put it in the place of a verb's Ray engine."""
    engine = type("Engine", (FakeEngine,), {})
    monkeypatch.setattr(f"mmsieve.verbs.{verb}.RayEngine", engine)
    return engine
