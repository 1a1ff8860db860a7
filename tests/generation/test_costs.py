"""generate with teachers behind a server: spending caps, estimates, batches."""

import pytest

from tests.helpers.lessons import PROVIDERS, entries, generate, lines
from tests.helpers.well_behaved import TOKENS, good_answer


def test_a_spending_cap_stops_and_a_higher_one_goes_on(tmp_path, server, source):
    each = (TOKENS[0] * 1 + TOKENS[1] * 5) / 1e6
    out = tmp_path / "out"
    report = generate(server, source, out=out, max_cost=3.5 * each, concurrency=2)
    assert "--max-cost" in str(report.failed)
    assert len(server.requests) in (2, 3)
    report = generate(server, source, out=out, max_cost=20 * each)
    assert report.failed == {}
    assert len(server.requests) == 8
    assert f"${8 * each:.4f}" in report.summary()


def test_a_dry_run_estimates_without_key_or_trace(tmp_path, server, source, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    report = generate(server, source, out=tmp_path / "out", dry_run=True)
    assert "8 images: 8 images of 8 samples" in report.summary()
    assert "cost: about $" in report.summary()
    unknown = generate(server, source, out=tmp_path / "out", dry_run=True, price=None)
    assert "unknown" in unknown.summary()
    assert not server.requests
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_settles_all_at_half_the_price(tmp_path, server, source, provider):
    first = []

    def answer(body):
        first.append(body)
        return "{" if len(first) == 1 else 500 if len(first) == 2 else good_answer(body)

    server.answer = answer
    out = tmp_path / "out"
    report = generate(server, source, out=out, provider=provider, batch=True, poll=0.01)
    ((what, why),) = report.failed.items()
    assert what == "1 of 8 images"  # the errored one; the bad answer went into a second batch
    assert "500" in why
    assert [len(batch["results"]) for batch in server.batches.values()] == [8, 1]
    half = 8 * (TOKENS[0] * 1 + TOKENS[1] * 5) / 1e6 / 2
    assert f"${half:.4f}" in report.summary()
    assert len(entries(out)) == 28
    again = generate(server, source, out=out, provider=provider, batch=True, poll=0.01)
    assert again.failed == {}
    assert len(server.requests) == 10
    for entry in entries(out):
        assert (out / entry["image"]).is_file()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_batch_whose_id_was_lost_is_found_again(tmp_path, server, source, provider):
    out = tmp_path / "out"
    server.lose_ids = True
    report = generate(server, source, out=out, provider=provider, batch=True, poll=0.01)
    assert "8 of 8 images" in report.failed
    server.lose_ids = False
    # Without --batch, too: what was sent has to be collected before anything else is asked.
    again = generate(server, source, out=out, provider=provider, poll=0.01)
    assert again.failed == {}
    assert len(server.requests) == 8
    assert len(entries(out)) == 32


def test_a_batch_is_collected_once_and_within_the_cap(tmp_path, server, source):
    out = tmp_path / "out"
    each = (TOKENS[0] * 1 + TOKENS[1] * 5) / 1e6 / 2
    # Before the first answer the price of a request is a guess, here of 2,500 letters a token.
    report = generate(server, source, out=out, batch=True, poll=0.01, max_cost=4 * 2.2 * each)
    assert "--max-cost" in str(report.failed)
    sent = len(server.requests)
    assert 0 < sent < 8
    journal = out / "journal.jsonl"
    kept = [line for line in journal.read_text().splitlines() if '"closed": true' not in line]
    journal.write_text("\n".join(kept[:-1]) + "\n")  # killed before the last answer was kept
    again = generate(server, source, out=out, batch=True, poll=0.01)
    assert again.failed == {}
    assert len(server.requests) == 8
    subjects = [line["subject"] for line in lines(journal) if "subject" in line]
    assert len(subjects) == len(set(subjects)) == 8


def test_a_cap_holds_for_a_server_that_counts_no_tokens(tmp_path, server, source, monkeypatch):
    monkeypatch.setattr("tests.helpers.well_behaved.TOKENS", (0, 0))
    report = generate(server, source, out=tmp_path / "out", max_cost=0.01, concurrency=1)
    assert "--max-cost" in str(report.failed)
    assert 0 < len(server.requests) < 8
