"""Keeping transformers' progress bars and loading advice off a user's terminal."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no messages below an error from transformers while this lasts."""
    from transformers.utils import logging as stock

    logger = logging.getLogger("transformers")
    level, bars = logger.level, stock.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    stock.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            stock.enable_progress_bar()
