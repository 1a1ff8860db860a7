"""Greedy decoding: a row of a batch is the row alone, and what transformers' generate gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from mmsieve.methods.decoding import Decoding, LanguageModel, decode_greedily

VOCABULARY = 96
ENDS = frozenset({3, 7, 11, 50})


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config).eval().requires_grad_(False)


PROMPTS = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20), min_size=1, max_size=6
)
PENALTIES = st.sampled_from([1.0, 1.3])


def pieces(ids: list[int]) -> list[int] | None:
    """Two given tokens, then one of three, then any, over and over."""
    place = len(ids) % 4
    return [60 + place] if place < 2 else [20, 21, 22] if place == 2 else None


@settings(max_examples=8)
@given(PROMPTS, PENALTIES, st.sampled_from([None, pieces]))
def test_a_batch_is_its_rows_alone(model, prompts, penalty, allowed):
    language = LanguageModel(model)
    rules = Decoding(
        max_new_tokens=14,
        end_ids=ENDS,
        repetition_penalty=penalty,
        stop=lambda ids: ids[-2:] == [20, 20],
        allowed=allowed,
    )
    embedded = [language.embed(ids) for ids in prompts]
    together = decode_greedily(language, embedded, rules)
    assert together == [decode_greedily(language, [one], rules)[0] for one in embedded]
    for ids in together:
        assert len(ids) == 14 or ids[-1] in ENDS
        assert not any(token in ENDS for token in ids[:-1])
        for place in range(len(ids) if allowed else 0):
            options = pieces(ids[:place])
            assert options is None or ids[place] in options


@settings(max_examples=5)
@given(PROMPTS, PENALTIES)
@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
def test_it_is_what_transformers_generates(model, prompts, penalty):
    language = LanguageModel(model)
    rules = Decoding(max_new_tokens=14, end_ids=ENDS, repetition_penalty=penalty)
    embedded = [language.embed(ids) for ids in prompts]
    for one, ours in zip(embedded, decode_greedily(language, embedded, rules), strict=True):
        theirs = model.generate(
            inputs_embeds=one[None],
            attention_mask=torch.ones(1, len(one), dtype=torch.long),
            do_sample=False,
            max_new_tokens=14,
            eos_token_id=sorted(ENDS),
            repetition_penalty=penalty,
            pad_token_id=0,
        )
        assert theirs[0].tolist() == ours


def test_what_all_prompts_share_may_be_given_as_a_cache(model):
    language = LanguageModel(model)
    rules = Decoding(max_new_tokens=10, end_ids=ENDS)
    shared = language.embed([5, 9, 13, 2])
    rest = [language.embed(ids) for ids in ([1, 2, 3], [4], [5, 6, 7, 8])]
    past = DynamicCache()
    language.hidden(shared[None], torch.ones(1, 4, dtype=torch.long), past)
    past.batch_repeat_interleave(len(rest))
    whole = decode_greedily(language, [torch.cat([shared, one]) for one in rest], rules)
    assert decode_greedily(language, rest, rules, past) == whole


def test_given_tokens_cost_no_step(model, monkeypatch):
    language = LanguageModel(model)
    steps = []
    hidden = language.hidden
    monkeypatch.setattr(
        language, "hidden", lambda *inputs: steps.append(inputs[0].shape[1]) or hidden(*inputs)
    )
    rules = Decoding(max_new_tokens=8, end_ids=frozenset(), allowed=pieces)
    decode_greedily(language, [language.embed([1, 2, 3])], rules)
    assert steps == [5, 1, 3, 1]  # prompt and two given; a choice; a choice and two given; a choice


def test_no_prompts_no_answers(model):
    rules = Decoding(max_new_tokens=8, end_ids=ENDS)
    assert decode_greedily(LanguageModel(model), [], rules) == []
