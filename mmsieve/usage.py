"""How the command line is explained: verbs in the order of work, examples, options by groups.

Everything here is for `--help` alone, so it is imported when somebody asks for that.
"""

import re
from collections.abc import Sequence
from typing import Any

from cyclopts import App
from cyclopts.help import HelpEntry, HelpPanel
from cyclopts.help.formatters import DefaultFormatter
from rich.console import Console, ConsoleOptions
from rich.text import Text

from mmsieve.generation.options import OPTIONS_OF

DEBUG = (
    "Any command takes --debug (a traceback where there is an error), --log-json (what goes to "
    "stderr is JSON, an object a line) and --metrics-port N (how it goes, for Prometheus on "
    "127.0.0.1)."
)

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("mmsieve demo --out demo/", "mmsieve demo --out demo/ --count 300 --quiet"),
    "look": ("mmsieve look photos/", "mmsieve look docs.jsonl --images images/"),
    "status": ("mmsieve status scores/", "mmsieve status /shared/ratings/"),
    "layouts": ("mmsieve layouts", "mmsieve layouts --markdown"),
    "models": ("mmsieve models", "mmsieve models | grep -A 2 UniFilter"),
    "doctor": ("mmsieve doctor", "mmsieve doctor --offline"),
    "score": (
        "mmsieve score photos/ --model unifilter-tiny --out scores/",
        "mmsieve score 'cc12m/{00000..01242}.tar' --model weizhiwang/UniFilter-Qwen3-0.6B "
        "--out scores/",
    ),
    "enhance": (
        "mmsieve enhance 'cc3m/*.tar' --model HymanH/AITQE --rewrite-below 7 --out judged/",
        "mmsieve enhance photos/ --model endpoint:http://localhost:8000/v1#AITQE "
        "--like HymanH/AITQE --out judged/",
    ),
    "rate": (
        "mmsieve rate llava.json --images images/ --model mengyaolyu/mmssr-7b-scorer "
        "--styler mengyaolyu/mmssr-7b-styler --out ratings/",
        "mmsieve rate qas.jsonl --images images/ --model mmssr-tiny-scorer --capabilities "
        "ocr,stem --out ratings/",
    ),
    "filter": (
        "mmsieve filter scores/ --top-fraction 0.3 --out keep/",
        "mmsieve filter scores/ clip.parquet --on uid --where 'clip_score > 0.28' "
        "--min-score 2 --out keep/",
    ),
    "select": (
        "mmsieve select ratings/ --budget 0.3 --out chosen/ --data llava.json "
        "--subset llava-30.json",
        "mmsieve select ratings/ --budget 50000 --weights ocr=3,data=2 --out chosen/",
    ),
    "export": (
        "mmsieve export 'cc12m/{00000..01242}.tar' --decisions keep/ --out curated/",
        "mmsieve export photos/ --captions judged/ --format parquet --out rewritten/",
    ),
    "report": (
        "mmsieve report scores/ keep/ photos/ --out report.html",
        "mmsieve report ratings/ chosen/ qas.json --images images/ --out report.html",
    ),
    "audit": (
        "mmsieve audit scores/ photos/ --out form.html",
        "mmsieve audit scores/ --read labels.jsonl --out precision.json",
    ),
    "evaluate": (
        "mmsieve evaluate --model unifilter-tiny --model mine/ --data val.json --out metrics/",
        "mmsieve evaluate scores/ other-scores/ --out agreement/",
    ),
    "convert": (
        "mmsieve convert HymanH/AITQE --out stock/",
        "mmsieve convert mmssr-tiny-scorer --out stock/ --overwrite",
    ),
    "generate captions": (
        "mmsieve generate captions --teacher rendered --count 400 --out data/",
        "mmsieve generate captions photos/ --teacher anthropic:claude-sonnet-5 --count 40000 "
        "--max-cost 100 --out data/ --dry-run",
    ),
    "generate documents": (
        "mmsieve generate documents --teacher rendered --count 400 --out data/",
        "mmsieve generate documents photos/ --teacher openai:gpt-5 --count 4000 --out data/",
    ),
    "generate assessments": (
        "mmsieve generate assessments --teacher rendered --count 400 --out data/",
        "mmsieve generate assessments pairs/ --teacher openai:gpt-5 --count 20000 --out data/",
    ),
    "generate ratings": (
        "mmsieve generate ratings --teacher rendered --count 400 --out data/",
        "mmsieve generate ratings qas.json --images images/ --teacher openai:gpt-5 "
        "--count 20000 --out data/",
    ),
    "train projector": (
        "mmsieve train projector unifilter-qwen3-0.6b --data blip_558k.json --images images/ "
        "--out projector/",
        "mmsieve train projector unifilter-tiny --smoke --out projector/",
    ),
    "train classifier": (
        "mmsieve train classifier unifilter-qwen3-0.6b --data data/ --out mine/",
        "mmsieve train classifier unifilter-tiny --smoke --out mine/",
    ),
    "train rater": (
        "mmsieve train rater mmssr-qwen2-7b-lora --data rated/ --out rater/",
        "mmsieve train rater mmssr-tiny-scorer --smoke --out rater/",
    ),
    "train enhancer": (
        "mmsieve train enhancer aitqe-qwen2-7b-lora --data assessed/ --out enhancer/",
        "mmsieve train enhancer aitqe-tiny --smoke --out enhancer/",
    ),
    "help": ("mmsieve help filter", "mmsieve help generate captions"),
    "completion": (
        'eval "$(mmsieve completion bash)"',
        "mmsieve completion fish > ~/.config/fish/completions/mmsieve.fish",
    ),
}
"""Verb -> commands that show what it is for, each at most three lines of a terminal."""

_TAKES = {
    "filter": "TABLE",
    "evaluate": "TABLE",
    "report": "INPUT",
    "audit": "INPUT",
    "help": "VERB",
}
"""Verb -> what it takes any number of; all others take a SOURCE."""
_ANY_NUMBER = {"SOURCES": "SOURCE", "TABLES": "TABLE", "INPUTS": "INPUT", "COMMAND": "VERB"}
"""Arguments of which any number may come -> what one of them is called."""
_TIME = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)")


class HelpFormatter(DefaultFormatter):
    """Prints help: no half of a switch that nobody means, values as people write them.

    `words` is the command line: options of a teacher are shown where it is named.
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__()
        self._teachers = {word.removeprefix("--teacher=") for word in words}

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a panel, unless it is about a teacher that the command line doesn't name."""
        title = str(panel.title)
        teacher = title.removeprefix(OPTIONS_OF)
        if teacher == title or teacher in self._teachers:
            entries = [_shown(entry) for entry in panel.entries]
            super().__call__(console, options, panel.copy(entries=entries))

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the first line, in which arguments have their names and come first: `SOURCE...`."""
        words = str(usage).split()
        many = f"{_TAKES.get(words[1], 'SOURCE')}..." if len(words) > 1 else ""
        words = [many if word == "[ARGS...]" else word for word in words]
        if "[OPTIONS]" in words:
            end = words.index("[OPTIONS]") + 1
            first = next(place for place, word in enumerate(words) if word[0] in "-[")
            words = [*words[:first], *words[end:], *words[first:end]]
        super().render_usage(console, options, Text(" ".join(words) + "\n"))


def prepare(app: App, words: Sequence[str]) -> None:
    """Import all verbs, and give them their examples and the form of their help."""
    app.help_formatter = HelpFormatter(words)
    app.help_epilogue = _REST + DEBUG
    for name, command in _commands(app, ()):
        command.help_epilogue = _epilogue(name)


_REST = "mmsieve help VERB explains a verb, with examples; mmsieve demo shows all of them. "


def _commands(parent: App, above: tuple[str, ...]) -> list[tuple[str, App]]:
    found = []
    for name in parent:
        if name.startswith("-"):
            continue
        child = parent[name]
        found += [(" ".join((*above, name)), child), *_commands(child, (*above, name))]
    return found


def _epilogue(name: str) -> str:
    """Markdown: the examples of a verb, or of the verbs below it, each in lines of its own."""
    examples = EXAMPLES.get(name) or [
        lines[0] for verb, lines in EXAMPLES.items() if verb.startswith(f"{name} ")
    ]
    return "\n".join(["Examples:", "", *(f"    {line}" for line in examples), "", DEBUG])


def _shown(entry: HelpEntry) -> HelpEntry:
    """What is said of an option: of a switch only the half that changes something."""
    changes: dict[str, Any] = {}
    if entry.positional_label in _ANY_NUMBER:
        changes["positional_label"] = f"{_ANY_NUMBER[entry.positional_label]}..."
    if entry.default == "False" or all(one.startswith("--empty-") for one in entry.negative_names):
        changes |= {"negative_names": (), "negative_shorts": ()}
    one, _, several = (entry.metavar or "").partition("|")
    if several == f"{one}...":
        changes["metavar"] = several
    default = None if entry.default in ("False", "()") else _value(entry.default)
    return entry.copy(default=default, **changes)


def _value(text: str | None) -> str | None:
    """A default as it may be written: 1_000_000 for a million, 30m for half an hour."""
    if text is None:
        return None
    if text.isdecimal() and len(text) > 4:
        return f"{int(text):_}"
    if time := _TIME.fullmatch(text):
        values = zip(map(int, time.groups("0")), "dhms", strict=True)
        return "".join(f"{value}{unit}" for value, unit in values if value)
    return text
