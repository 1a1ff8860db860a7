"""The pages: every block of commands and of Python runs on tiny stand-ins, or says why not.

Files and folders have the names that the blocks give them; bundled models stand in for released
ones. A block that can't run here has `<!-- not run: REASON -->` on the line before it.
"""

import ast
import json
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

import mmsieve
from benchmarks import scaling_law
from mmsieve import cli
from mmsieve.reports import Printed
from tests.helpers.layouts import BUILDERS, DrawnLayout
from tests.helpers.shards import caption, image, write_tar

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
STAND_INS = {
    "weizhiwang/UniFilter-Qwen3-0.6B": "unifilter-tiny",
    "HymanH/AITQE": "aitqe-tiny",
    "mengyaolyu/mmssr-7b-scorer": "mmssr-tiny-scorer",
    "mengyaolyu/mmssr-7b-styler": "mmssr-tiny-styler",
}
"""Released model -> the bundled one that takes its place here."""
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<kind>sh|bash|python)\n(?P<text>.*?)```",
    re.S,
)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Kind, text and, if it has one, the reason of each block that somebody would run."""
    found = _BLOCK.finditer(page.read_text("utf-8"))
    return [(one["kind"], one["text"], one["reason"] or "") for one in found]


RUN = [
    pytest.param(page, id=page.relative_to(ROOT).as_posix())
    for page in PAGES
    if any(not reason for _, _, reason in blocks(page))
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with everything that the pages name, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("datacomp", "cc12m", "cc3m", "laion"):
        for tar in ("00000", "00001"):
            pairs = (caption(f"{tar}{n}", uid=f"{int(tar)}{n}".zfill(32)) for n in range(4))
            write_tar(tmp_path / name / f"{tar}.tar", [one for pair in pairs for one in pair])
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("abc"):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(image(number, size=(40, 30)))
        (tmp_path / "photos" / f"{name}.txt").write_text(f"Picture {name}.")
    for layout, source in (("OBELICS", "obelics"), ("FineVision", "finevision")):
        folder = tmp_path / source
        folder.mkdir()
        draw(layout, folder)
    move(draw("mmc4", tmp_path), tmp_path / "docs.jsonl", tmp_path / "mmc4-images")
    move(draw("LLaVA", tmp_path), tmp_path / "llava.json", tmp_path / "images")
    return tmp_path


def draw(of: str, folder: Path) -> DrawnLayout:
    """A source in the layout of a data set, made in a folder."""
    return next(build for own, build in BUILDERS.items() if of == own[0] or of in own[1])(folder)


def move(made: DrawnLayout, file: Path, images: Path) -> None:
    """Give what was drawn the names that a page has for it."""
    made.source.rename(file)
    assert made.images is not None
    made.images.rename(images)


@pytest.mark.long
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(place, page, capsys):
    for kind, text, reason in blocks(page):
        if reason:
            continue
        if kind == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "__main__"})
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=" #" in line)
            if words:
                assert words[0] == "mmsieve", f"{line}: only mmsieve runs here; give the reason"
                run(words[1:], line, capsys)


def run(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command as it stands, with tiny models, in this process."""
    given = [STAND_INS.get(word, word) for word in words]
    if given[0] in ("score", "enhance", "rate"):
        given += ["--workers", "0"]
    if given[0] == "demo":
        given += ["--count", "12", "--dry-run"]
    with pytest.raises(SystemExit) as ended:
        cli.main(given)
    assert ended.value.code == 0, f"{line}\n{capsys.readouterr().err}"


def test_what_does_not_run_says_why():
    for page in PAGES:
        for _, text, reason in blocks(page):
            if not reason:
                first = [line.split()[0] for line in text.splitlines() if line.strip()]
                assert "mmsieve" in first or "import" in text, f"{page.name}: {text}"


def test_no_page_and_no_link_is_lost():
    """Every page is in the navigation, every relative link of all of them leads to something."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    named = set(re.findall(r"[\w/-]+\.md", json.dumps(settings["nav"])))
    assert named == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8")):
            found = Path(os.path.normpath(page.parent / target))
            assert found.exists(), f"{page.name}: {target}"
            if DOCS in page.parents:
                assert DOCS in found.parents, f"{page.name}: {target} is not in the built site"
    for target in re.findall(
        r"blob/main/([^)\s]+)", "\n".join(p.read_text("utf-8") for p in PAGES)
    ):
        assert (ROOT / target).exists(), target


def test_a_warning_fails_the_site():
    """Strict mode counts the warnings that are printed: none, where the build is quiet."""
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["strict"] is True
    (build,) = re.findall(r"mkdocs build.*", (ROOT / "Makefile").read_text("utf-8"))
    assert not {"-q", "--quiet"} & set(build.split())


def test_the_tables_of_scaling_are_those_of_the_law():
    page = (ROOT / "docs/scaling.md").read_text("utf-8")
    for table in scaling_law.sections():
        assert table in page, "print them again: python -m benchmarks.scaling_law"


def test_the_reference_has_every_public_name():
    named = set(re.findall(r"^::: mmsieve\.(\S+)$", (ROOT / "docs/api.md").read_text(), re.M))
    homes = {getattr(mmsieve, name) for name in mmsieve.__all__}
    assert {f"mmsieve.{name}" for name in named} == {
        f"{found.__module__}.{found.__qualname__}" for found in homes
    }
    assert all(found.__doc__ for found in homes)


def test_examples_of_clusters_are_whole():
    for script in (ROOT / "examples" / "scaling").glob("*.sh"):
        assert "set -euo pipefail" in script.read_text("utf-8")
    job = yaml.safe_load((ROOT / "examples/scaling/kubernetes.yaml").read_text("utf-8"))
    (command,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    words = shlex.split(command.replace("$JOB_COMPLETION_INDEX", "0"))
    words.remove("--log-json")
    cli.app.parse_args(words[1:], exit_on_error=False, print_error=False)


NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.long
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs(tmp_path, monkeypatch, notebook):
    """Its cells one after the other, and what a notebook would show of each last value."""
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "is kept without outputs"
        parsed = ast.parse("".join(cell["source"]))
        last = parsed.body.pop() if isinstance(parsed.body[-1], ast.Expr) else None
        exec(compile(parsed, notebook.name, "exec"), known)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), notebook.name, "eval"), known)
            assert not isinstance(shown, Printed) or "<pre>" in shown.html()
