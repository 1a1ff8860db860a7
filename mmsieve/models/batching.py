"""Batches by token budget: sorted by length inside a window, so that little is padding."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """How many items are looked at together: whichever limit comes first closes the window."""

    items: int
    tokens: int
    nbytes: int

    def split(self, stream: Iterable[T], size: Callable[[T], tuple[int, int]]) -> Iterator[list[T]]:
        """Runs of the stream, in order; `size` gives an item's tokens and bytes."""
        run: list[T] = []
        tokens = nbytes = 0
        for item in stream:
            run.append(item)
            more = size(item)
            tokens, nbytes = tokens + more[0], nbytes + more[1]
            if len(run) >= self.items or tokens >= self.tokens or nbytes >= self.nbytes:
                yield run
                run, tokens, nbytes = [], 0, 0
        if run:
            yield run


def batches(costs: list[int], budget: int, fence: int | None = None) -> list[list[int]]:
    """Indices of `costs` (tokens per item) in batches, longest first.

    A batch of n items padded to its longest stays within `budget` tokens; an item longer than
    that is a batch of its own. Equal costs keep their order: same costs, same batches. Items
    longer than `fence` never share a batch with others.
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    made: list[list[int]] = []
    room, beyond = 0, False
    for index in order:
        was_beyond, beyond = beyond, fence is not None and costs[index] > fence
        if room <= 0 or beyond != was_beyond:
            made.append([])
            room = max(1, budget // max(1, costs[index]))
        made[-1].append(index)
        room -= 1
    return made
