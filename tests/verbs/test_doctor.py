"""doctor: what is installed is said, what is missing is named with how to install it."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import mmsieve
from mmsieve.cli import main
from mmsieve.devices import count_cores


def run(capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--offline"])
    return int(ended.value.code or 0), capsys.readouterr().out


def pretend(monkeypatch, versions: dict[str, str | None]) -> None:
    """Let packages have other versions, or be missing where there is none."""
    real = metadata.version

    def version(name: str) -> str:
        if name in versions:
            found = versions[name]
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found
        return real(name)

    monkeypatch.setattr("mmsieve.verbs.doctor.metadata.version", version)


def test_a_healthy_installation_is_described(capsys):
    code, said = run(capsys)
    assert code == 0
    assert f"mmsieve {mmsieve.__version__}, Python 3." in said
    assert "device: cpu" in said
    assert "[http]: there" in said
    assert "Hugging Face hub: not asked (--offline)" in said


def test_what_an_extra_lacks_is_no_failure(capsys, monkeypatch):
    pretend(monkeypatch, {"ray": None, "aiohttp": "1.0"})
    code, said = run(capsys)
    assert code == 0
    assert "[ray]: ray is missing; pip install 'mmsieve[ray]'" in said
    assert "aiohttp is 1.0, needed is >=" in said


def test_what_every_verb_needs_is_a_failure(capsys, monkeypatch):
    pretend(monkeypatch, {"transformers": "4.50", "polars": None})
    code, said = run(capsys)
    assert code == 1
    assert "problem: transformers is 4.50, needed is >=5.0" in said
    assert "problem: polars is missing" in said


def test_a_system_that_does_not_tell_the_cores_of_a_process_has_all_of_them(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert count_cores() == 5


def test_one_version_everywhere():
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    cited = yaml.safe_load((root / "CITATION.cff").read_text("utf-8"))
    assert mmsieve.__version__ == project["version"] == cited["version"]
    assert cited["license"] == project["license"]
    newest = re.search(r"^## .*$", (root / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest is not None
    assert newest[0].startswith(f"## {project['version']} - "), "with a date"
