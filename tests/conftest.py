from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "data" / "unifilter"


@pytest.fixture
def checkpoint() -> str:
    """A recorded checkpoint with random weights; its tower lies beside it."""
    return str(RECORDED / "UniFilter-Qwen3-tiny")
