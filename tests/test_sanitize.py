"""Nothing that is printed or stored holds a secret, and nothing printed drives a terminal."""

import io
import json
import re
import unicodedata
from base64 import b64encode
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmsieve.cli import main
from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.methods.aitqe.answers import Assessment, write_answer
from mmsieve.progress import show_progress
from mmsieve.sanitize import plain, redact, write
from tests.helpers.file_server import serve_files
from tests.helpers.selections import ratings_of, write_ratings
from tests.helpers.shards import caption, captions, tar_bytes, write_jsonl, write_tar
from tests.helpers.tables import rows_of, write_table
from tests.helpers.well_behaved import KEY

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2066\rfake\nmmsieve: done"
"""Sets a title, clears the screen, colours, turns text around, overwrites and adds a line."""
SECRET = "s3cr3t-9f8e7d"


@pytest.fixture
def run(capsys):
    """Runs a command line; returns exit code, output, errors."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def is_harmless(text: str) -> bool:
    """Whether a text has line breaks only of what can move, colour or turn around a text."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "B"}
    return all(
        letter == "\n"
        or (
            (unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp"))
            and unicodedata.bidirectional(letter) not in turning
        )
        for letter in text
    )


# Secrets

SIGNED = {
    "aws": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={0}%2Fus&X-Amz-Signature={0}",
    "google": "X-Goog-Signature={0}&X-Goog-Date=2026",
    "azure": "sv=2022-11-02&se=2026-01-01&sr=b&sp=r&sig={0}%3D",
    "cloudfront": "Expires=17&Signature={0}&Key-Pair-Id=K{0}",
    "key": "api_key={0}",
    "token": "access_token={0}",
    "percent": "%73ig={0}",
}


@pytest.mark.parametrize("query", SIGNED.values(), ids=SIGNED)
@pytest.mark.parametrize(
    "form", ["{0}", "{0}: can't be listed", "403, url='{0}'", "endpoint:{0}#m", "see ({0})."]
)
def test_signatures_are_taken_out_of_any_text(query, form):
    address = "https://me:{0}@host.org/a/b.tar?part=3&" + query
    one, fresh = (redact(form.format(address.format(each))) for each in (SECRET, "other-0123"))
    assert one == fresh == redact(one)
    assert form.partition("{0}")[0] + "https://host.org/a/b.tar?part=3" in one


WORD = st.from_regex(r"Q7[A-Za-z0-9_.!$*+-]{6,40}", fullmatch=True)
PLACES = st.sampled_from(
    ["s3://u:{0}@bucket/x", "https://{0}@h/x", "https:/{0}@h/x", "h://h/x?sig={0}"]
)


@settings(max_examples=60)
@given(st.text(max_size=40), PLACES, st.text(max_size=40), WORD)
def test_no_login_or_signature_is_left_whatever_stands_around(before, place, after, secret):
    assume(secret not in before + after)
    shown = redact(f"{before} {place.format(secret)} {after}")
    assert secret not in shown and redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "/data/in/{00..12}.tar",
        "s3://bucket/shard-?.tar",
        "hf://datasets/me/set@main/a.parquet",
        "abfs://container@account.dfs.core.windows.net/a.tar",
        "https://host/get?file=part-00001.tar&page=2",
        "a caption about me@example.org: see https://example.org/",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_values_that_look_like_secrets_differ_but_are_not_shown():
    one, two = (redact(f"https://h/a?v={letter}{'4Zb0' * 8}") for letter in "ab")
    assert one != two and "4Zb0" not in one


def test_errors_of_any_kind_are_redacted():
    address = f"https://u:{SECRET}@h/a"
    assert SECRET not in str(ShardError(address)) + str(SampleError(Status.OK, address))
    assert SECRET not in redact(f"{{'Authorization': 'Bearer {SECRET}'}}")


def test_an_endpoint_s_secrets_are_nowhere_and_fresh_ones_resume(
    tmp_path, server, run, monkeypatch
):
    monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", KEY)
    source = write_tar(tmp_path / "in" / "a.tar", captions(2))
    asked = ["enhance", source, "--out", tmp_path / "out", "--workers", "0", "--model"]
    address = server.url.replace("://", "://me:{0}@")
    code, out, err = run(*asked, f"endpoint:{address.format(SECRET)}/v1?api-key={SECRET}#m")
    login = b64encode(f"me:{SECRET}".encode()).decode()
    assert code == 2 and "401" in err  # the server echoes the header of the login
    assert SECRET not in out + err and login not in out + err

    server.answer = lambda body: write_answer(Assessment(recaption=None, overall=9))
    first, fresh = (f"endpoint:{server.url}/v1?api-key={key}#m" for key in (SECRET, "fresh-one"))
    code, out, err = run(*asked, first)
    assert code == 0 and SECRET not in out + err + everything(tmp_path / "out")
    assert "resumed: 1 shard" in run(*asked, fresh)[1]
    code, out, err = run(*asked, f"endpoint:https://me:{SECRET}@127.0.0.1:9/v1#another")
    assert code == 2 and SECRET not in out + err


def everything(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "".join(path.read_bytes().decode("latin-1") + str(path) for path in files)


def test_a_generation_from_signed_addresses_stores_none_and_resumes(tmp_path, server, run):
    pytest.importorskip("aiohttp", reason="needs the extra [http]")
    out, tar = tmp_path / "out", tar_bytes(captions(2))
    with serve_files({"/d/a.tar": tar, "/e/b.tar": tar}) as files:
        address = files.url.replace("://", "://me:{0}@") + "/{1}.tar?X-Amz-Signature={0}"

        def generate(secret: str) -> tuple[int, str, str]:
            sources = [address.format(secret, name) for name in ("d/a", "e/b")]
            words = ["generate", "captions", *sources, "--teacher", "openai:m", "--count", "4"]
            base = f"{server.url}/v1?token={secret}"
            return run(*words, "--base-url", base, "--out", out, "--price", "1,1")

        for code, said, err in (generate(SECRET), generate("fresh-0123")):
            assert code == 0
            assert SECRET not in said + err + everything(out)
        assert "done before" in said
    record = json.loads((out / "generate.json").read_text())
    assert record["request"]["sources"] == [f"{files.url}/d/a.tar", f"{files.url}/e/b.tar"]


@pytest.mark.parametrize(
    "words",
    [
        "score https://me:{0}@127.0.0.1:9/a.tar?sig={0} --model rules --out {1}",
        "score https://h/{{0..1?sig={0} --model rules --out {1}",
        "score nosuch://me:{0}@host/a.tar --model rules --out {1}",
        "enhance {1} --model endpoint:https://me:{0}@host/v1 --out {1}/o",
        "filter https://me:{0}@host/t --min-score 1 --out {1}",
        "score {1} --model https://me:{0}@host/m --out {1}/o",
        "report https://me:{0}@host/t --out {1}/x.html",
        "score {1} --model rules --limit https://me:{0}@host --out {1}",
    ],
)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_wrong_request_says_no_secret(tmp_path, run, words, debug):
    code, out, err = run(*words.format(SECRET, tmp_path).split(), *debug)
    assert code == 2 and err and SECRET not in out + err


# Terminals


@settings(max_examples=40)
@given(st.text())
def test_plain_text_is_one_harmless_line(text):
    shown = plain(text)
    assert is_harmless(shown) and "\n" not in shown
    assert plain(shown) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_any_text_can_be_printed_anywhere(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    write(f"caf\u00e9 \u4f60 \udcff {EVIL}", stream)
    stream.seek(0)
    assert is_harmless(stream.read())


def evil_table(folder: Path, **columns: Any) -> Path:
    rows = rows_of("a", [1.0, 2.0, 3.0]) | {"status": ["ok", "ok", EVIL]} | columns
    return write_table(folder, {"a": rows})


def test_words_of_tables_reach_the_terminal_as_text(tmp_path, run):
    table = evil_table(tmp_path / "t", **{"kind": [EVIL, "b", "c"], EVIL: [1.0, 2.0, 3.0]})
    rated = [
        {"key": n, "styles": [EVIL], "image_source": EVIL, "ocr": n, "status": status}
        for n, status in enumerate(("ok", "ok", EVIL))
    ]
    ratings = write_ratings(tmp_path / "r", ratings_of(rated, ocr=pa.int8()))
    source = write_tar(tmp_path / "s" / "a.tar", captions(3))
    out = tmp_path / "out"
    commands = [
        ["filter", table, "--top-count", "1", "--per", "kind", "--out", out / "1"],
        ["filter", table, "--min-score", "1.5", "--by", "no such", "--out", out / "2"],
        ["filter", table, "--where", f"nothing = '{EVIL}'", "--out", out / "3"],
        ["select", ratings, "--budget", "2", "--capabilities", "ocr", "--out", out / "4"],
        ["select", ratings, "--budget", "2", "--capabilities", EVIL, "--out", out / "5"],
        ["evaluate", table, table, "--by", EVIL, "--out", out / "6"],
        ["evaluate", table, table, "--on", EVIL, "--out", out / "7"],
        ["report", table, ratings, source, "--out", out / "8.html"],
        ["score", tmp_path / EVIL, "--model", "rules", "--out", out / "9"],
        ["score", source, "--model", EVIL, "--out", out / "10", "--debug"],
        ["export", source, "--decisions", out / "1", "--out", out / "11"],
        ["score", source, "--model", "rules", "--out", out / "9", f"--{EVIL}"],
    ]
    for command in commands:
        _, said, err = run(*command)
        assert said + err and is_harmless(said + err), command
        assert "mmsieve: done" not in (said + err).splitlines(), command
    assert any(path.name.startswith("1") for path in out.iterdir())


def test_data_in_errors_and_dry_runs_reach_the_terminal_as_text(tmp_path, server, run, monkeypatch):
    monkeypatch.setenv("MMSIEVE_ENDPOINT_KEY", KEY)
    source = write_tar(tmp_path / "in" / "a.tar", caption(f"k{EVIL}", EVIL))
    (tmp_path / "in" / "b\x1b[31m.txt").write_text("x")
    (tmp_path / "b\u202e").mkdir()
    for words in (["--dry-run"], []):
        code, out, err = run(
            *("score", tmp_path / "in", "--model", "rules", "--workers", "0"),
            *("--out", tmp_path / "b\u202e" / "o", *words),
        )
        assert code == 0 and is_harmless(out + err) and "\\u202e" in out
    items = [{"id": EVIL, "image": EVIL, "conversations": EVIL}]
    write_jsonl(tmp_path / "items.jsonl", items)
    _, out, err = run(
        *("enhance", source, "--out", tmp_path / "e", "--workers", "0"),
        *("--model", f"endpoint:{server.url}/v1#{EVIL}"),
    )
    assert is_harmless(out + err)


def test_progress_shows_words_as_they_are(capsys, monkeypatch):
    for seconds in ("0", None):
        if seconds:
            monkeypatch.setattr("mmsieve.progress._LINE_SECONDS", float(seconds))
        with show_progress(f"check {{a}} [b] {EVIL}", 2, False, say=lambda: EVIL) as advance:
            advance(1, 1)
    shown = capsys.readouterr().err
    assert "check {a} [b] \\x1b" in shown and is_harmless(shown)


def test_progress_on_a_terminal_takes_no_word_for_markup(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with show_progress(f"check {{a}} [b] {EVIL}", 2, False, say=lambda: EVIL) as advance:
        advance(1, 1)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)  # of the bar itself
    assert "{a} [b]" in shown and "\x07" not in shown and "\u202e" not in shown
