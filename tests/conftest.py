from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.lessons import PROVIDERS
from tests.helpers.paths import RECORDED_DATA
from tests.helpers.shards import captions, write_tar
from tests.helpers.well_behaved import KEY, serve

RECORDED = RECORDED_DATA / "unifilter"

# A busy machine is slow, not wrong: no property fails by time alone.
settings.register_profile("mmsieve", deadline=None)
settings.load_profile("mmsieve")


@pytest.fixture
def checkpoint() -> str:
    """A recorded checkpoint with random weights; its tower lies beside it."""
    return str(RECORDED / "UniFilter-Qwen3-tiny")


@pytest.fixture
def server(monkeypatch):
    """A teachers' server that answers well, its key in the environment."""
    for provider in PROVIDERS:
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    with serve() as running:
        yield running


@pytest.fixture
def source(tmp_path) -> Path:
    """A tar of eight caption pairs."""
    return write_tar(tmp_path / "in" / "pairs.tar", captions(8))
