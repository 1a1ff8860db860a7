"""Runs `generate` against a well-behaved server, and reads what it has written."""

import json
from pathlib import Path

import mmsieve
from mmsieve import AssessmentsOptions, GenerateOptions, RatingsOptions, TeacherOptions
from tests.helpers.well_behaved import Server

PROVIDERS = ("openai", "anthropic")


def generate(server: Server, *sources, out: Path, what="captions", provider="openai", **options):
    mine = {name: options.pop(name) for name in list(options) if name in _ASKING}
    asking = {"base_url": server.base_url(provider), "max_retries": 0, "price": "1,5"} | mine
    own = {"judging": AssessmentsOptions, "rating": RatingsOptions}
    given = {name: own[name](**options.pop(name)) for name in list(options) if name in own}
    given |= {"read": options.pop("read")} if "read" in options else {}
    wanted = {"teacher": f"{provider}:m", "count": 32, "quiet": True} | options
    make = getattr(mmsieve, f"generate_{what}")
    return make(
        *map(str, sources),
        out=out,
        **given,
        options=GenerateOptions(**wanted),
        asking=TeacherOptions(**asking),
    )


_ASKING = TeacherOptions.__dataclass_fields__


def entries(out: Path) -> list[dict]:
    return [e for name in ("train.json", "val.json") for e in json.loads((out / name).read_text())]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
