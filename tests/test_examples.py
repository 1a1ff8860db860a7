"""The examples that aren't Python: they can be read, and their command lines are ours."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclopts import UnknownOptionError

from mmsieve.cli import app

SERVING = Path(__file__).parents[1] / "examples" / "serving"


def parse(words: list[str]) -> Any:
    """What a command line is understood as; raises for one that isn't."""
    assert words[0] == "mmsieve"
    return app.parse_args(words[1:], exit_on_error=False, print_error=False)


def containers(kind: Any) -> list[dict[str, Any]]:
    """The containers of whatever a document describes."""
    if isinstance(kind, list):
        return [found for part in kind for found in containers(part)]
    if not isinstance(kind, dict):
        return []
    own = [*kind.get("containers", ()), *kind.get("initContainers", ())]
    return own + [found for part in kind.values() for found in containers(part)]


def test_the_job_of_slurm():
    script = SERVING / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text("utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?:#\s+)?(mmsieve .*)$", text, re.MULTILINE)
    verbs = [parse(shlex.split(line))[0].__name__ for line in lines]
    assert verbs == ["convert", "enhance"]


def test_the_objects_of_kubernetes():
    documents = list(yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text("utf-8")))
    assert [each["kind"] for each in documents] == ["Service", "StatefulSet", "Job"]
    found = {each["name"]: each for each in containers(documents)}
    assert found.keys() == {"vllm", "wait", "mmsieve"}
    assert parse(found["mmsieve"]["command"])[0].__name__ == "enhance"
    # the names of the pods, as the headless service has them
    service, servers, _ = documents
    assert servers["spec"]["serviceName"] == service["metadata"]["name"]
    urls = re.findall(r"http://(\w+-\d+)\.(\w+):8000/v1", " ".join(found["mmsieve"]["command"]))
    name = servers["metadata"]["name"]
    wanted = [(f"{name}-{n}", name) for n in range(servers["spec"]["replicas"])]
    assert urls == wanted


def test_a_wrong_option_would_be_seen():
    with pytest.raises(UnknownOptionError):
        parse(["mmsieve", "enhance", "a", "--model", "m", "--out", "o", "--conccurrency", "3"])
