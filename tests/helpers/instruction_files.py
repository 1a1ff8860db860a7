"""What the tests of instruction files share."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmsieve.errors import RequestError
from mmsieve.read import ReadOptions
from mmsieve.read.shards import split_files
from mmsieve.sample import Turn
from mmsieve.sources import find_files
from tests.helpers.shards import write_jsonl

TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
TURNS = (Turn("user", "<image>\nWhat?"), Turn("assistant", "A cat."))


def item(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": f"i{number}", "conversations": TALK} | fields


def write_json(path: Path, items: list[Any], indent: int | None = 1) -> Path:
    path.write_text(json.dumps(items, indent=indent))
    return path


def write_either(path: Path, items: list[Any]) -> Path:
    write = write_json if path.suffix == ".json" else write_jsonl
    return write(path, items)


def plan(path: Path, **options: Any) -> list[tuple[str, int, int | None]]:
    shards = split_files(find_files([str(path)]).files, ReadOptions(**options))
    return [(shard.name, shard.start, shard.stop) for shard in shards]


def request_error(path: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as error:
        plan(path, **options)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)
