"""The own decoder against transformers' `generate`, one prompt at a time."""

from __future__ import annotations

import random

import pytest
import torch

from snake_dist.data.templates import stop_ids
from snake_dist.evaluation.players.language_model import greedy_decode
from snake_dist.model import decoding
from snake_dist.model.base import load_base, load_tokenizer
from snake_dist.model.decoding import SlotDecoder, before_stop, has_slots
from snake_dist.model.slot_attention import SLOT_ATTENTION, SlotRow, _one_by_one, _padded
from snake_dist.model.slot_cache import SlotCache
from tests.evaluation.players.test_language_model import make_peft
from tests.support.tiny_models import SHAPES, tiny_model

NEW = 9
HAVE_SLOTS = set(SHAPES) - {"bloom", "falcon"}


@pytest.fixture(scope="module", params=SHAPES)
def family(request, tmp_path_factory):
    directory = str(tiny_model(tmp_path_factory.mktemp(request.param), request.param))
    return request.param, load_base(directory, "float32"), load_tokenizer(directory)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = str(tiny_model(tmp_path_factory.mktemp("llama"), "llama"))
    return load_base(directory, "float32"), load_tokenizer(directory)


def ragged_prompts(n=17):
    """Prompts of 1 to 40 tokens; the first of them begin alike, the last ones do not."""
    rng = random.Random(0)
    shared = [rng.randrange(250) for _ in range(12)]
    return [
        (shared if i < n - 4 else shared[:5] if i < n - 2 else [])
        + [rng.randrange(250) for _ in range(rng.randrange(1, 28))]
        for i in range(n)
    ]


def decode(model, tokenizer, prompts, num_slots):
    return run(SlotDecoder(model, stop_ids(model.generation_config.eos_token_id, tokenizer), NEW, num_slots), prompts)


def one_by_one(model, tokenizer, prompts):
    return [greedy_decode(model, tokenizer, [prompt], NEW)[0] for prompt in prompts]


def test_equals_generate_token_for_token_however_many_slots(family):
    name, model, tokenizer = family
    prompts = ragged_prompts()
    expected = one_by_one(model, tokenizer, prompts)
    # The tiny models rarely stop by themselves: take tokens that they say for stop tokens, so that rows end unevenly.
    model.generation_config.eos_token_id = sorted(
        {ids[i % len(ids)] for i, ids in enumerate(expected) if i % 3 and ids}
    )
    expected = one_by_one(model, tokenizer, prompts)
    assert len({len(ids) for ids in expected}) > 2
    assert has_slots(model) == (name in HAVE_SLOTS)
    own_attention = model.config._attn_implementation
    for num_slots in (1, 4, 50) if has_slots(model) else ():
        assert decode(model, tokenizer, prompts, num_slots) == expected, num_slots
        assert decode(model, tokenizer, prompts[::-1], num_slots) == expected[::-1], num_slots
    assert model.config._attn_implementation == own_attention != SLOT_ATTENTION


def test_the_lowest_names_are_begun_first(llama, monkeypatch):
    model, _ = llama
    monkeypatch.setitem(decoding.MAX_ROW, "cpu", 20)
    decoder = SlotDecoder(model, [], 1, 64)
    for name in (5, 3, 4, 1, 0, 2):
        decoder.add(name, [7 + name] * 10)
    begun = [[name for name, _ in decoder.finished()]]
    decoder.add(0, [9] * 10)  # its game continues before others begin
    while decoder.is_busy:
        begun.append([name for name, _ in decoder.finished()])
    assert begun == [[0, 1], [0, 2], [3, 4], [5]]


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("start", [0, 5])
def test_prompts_that_begin_attend_alike_on_cpus_and_gpus(start, window):
    """Four query heads share two key heads; two slots continue, three prompts of 9, 1 and 17 tokens begin."""
    generator = torch.Generator().manual_seed(0)
    new_lengths = [9, 1, 17]
    row = SlotRow(SlotCache(5, 30), [3, 8], [4, 2, 3], new_lengths, start, torch.device("cpu"))
    query = torch.randn(2 + sum(new_lengths), 4, 8, generator=generator)
    keys, values = torch.randn(2, 5, 30, 2, 8, generator=generator)
    mask = row.mask_of_begun(query, window) if start or window else None
    by_cpu, by_gpu = (attend(query, keys, values, row, None, mask) for attend in (_one_by_one, _padded))
    torch.testing.assert_close(by_cpu, by_gpu)


def test_adapted_layers_take_part(llama):
    model, tokenizer = llama
    prompts = ragged_prompts(6)
    before = decode(model, tokenizer, prompts, 4)
    peft = make_peft(load_base(model.name_or_path, "float32")).eval()
    adapted = one_by_one(peft, tokenizer, prompts)
    assert decode(peft.get_base_model(), tokenizer, prompts, 4) == adapted != before
    with peft.disable_adapter():
        assert decode(peft.get_base_model(), tokenizer, prompts, 4) == before


def run(decoder, prompts, before=0):
    """All continuations; the prompts after the first `before` come while others are decoded."""
    found, waiting = {}, list(enumerate(prompts))
    for item in waiting[:before] or waiting:
        decoder.add(*item)
    waiting = waiting[before:] if before else []
    while decoder.is_busy:
        for name, ids in decoder.finished():
            found[name] = ids
            if waiting:
                decoder.add(*waiting.pop(0))
    return [found[i] for i in range(len(prompts))]


def test_prompts_may_come_at_any_time_and_be_longer_than_all_before(llama):
    """The cache grows under running texts, and the shared beginning shrinks under them."""
    model, tokenizer = llama
    prompts = sorted(ragged_prompts(24)[:20], key=len) + ragged_prompts(24)[20:] + [[i % 250 for i in range(300)]]
    expected = one_by_one(model, tokenizer, prompts)
    for num_slots in (1, 3):
        decoder = SlotDecoder(model, [tokenizer.eos_token_id], NEW, num_slots)
        assert run(decoder, prompts, before=5) == expected
        assert decoder.finished() == []


def test_a_refilled_slot_knows_nothing_of_its_first_text(llama):
    """One slot, two texts: the logits that the second has alone, though the first was longer."""
    model, _ = llama
    first, second = [i % 250 for i in range(60, 130)], [7, 3, 9]
    seen = []
    handle = model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits[0, -1].clone()))
    run(SlotDecoder(model, [], NEW, 1), [first, second])
    run(SlotDecoder(model, [], NEW, 1), [second])
    handle.remove()
    assert len(seen) == 3 * NEW
    for after_first, alone in zip(seen[NEW : 2 * NEW], seen[2 * NEW :], strict=True):
        torch.testing.assert_close(after_first, alone, rtol=1e-5, atol=1e-6)


def test_a_row_is_computed_for_running_texts_only_and_never_waits(llama):
    """Tokens computed are those of the prompts once and one for each token decoded: no padding, no finished rows."""
    model, _tokenizer = llama
    prompts = [prompt[12:] or [1] for prompt in ragged_prompts(13)[:9]]
    widths = []
    handle = model.lm_head.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    embedded = []
    other = model.model.embed_tokens.register_forward_pre_hook(lambda _, args: embedded.append(args[0].numel()))
    run(SlotDecoder(model, [], NEW, 4), prompts)
    handle.remove()
    other.remove()
    assert sum(embedded) == sum(map(len, prompts)) + len(prompts) * (NEW - 1)
    assert sum(widths) == len(prompts) * NEW  # logits of last tokens only
    assert max(widths) == 4
    assert len(widths) == 3 * NEW  # nine texts of equal length through four slots


def test_drafts_have_no_say_whatever_they_say(llama):
    """Right ones, wrong ones, right ones that go wrong, that end early, that go on too long or past a stop token."""
    model, tokenizer = llama
    prompts = ragged_prompts(20)
    stops = [one_by_one(model, tokenizer, prompts)[0][3], tokenizer.eos_token_id]
    expected = [before_stop(ids, stops) for ids in one_by_one(model, tokenizer, prompts)]
    drafts = [
        [ids, [1, 2, 3], [*ids[:2], 7, *ids[3:]], ids[:1], ids * 4, [*ids, stops[0], 9], []][i % 7]
        for i, ids in enumerate(expected)
    ]
    for num_slots in (1, 3, 50):
        decoder = SlotDecoder(model, stops, NEW, num_slots)
        for i, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True)):
            decoder.add(i, prompt, draft)
        found = {}
        while decoder.is_busy:
            found |= dict(decoder.finished())
        assert [found[i] for i in range(len(prompts))] == expected


def test_a_right_draft_takes_one_pass_and_wrong_ones_are_given_up(llama):
    model, tokenizer = llama
    prompts = ragged_prompts(6)
    expected = decode(model, tokenizer, prompts, 9)
    passes = []
    handle = model.lm_head.register_forward_pre_hook(lambda _, args: passes.append(args[0].shape[1]))
    decoder = SlotDecoder(model, stop_ids(model.generation_config.eos_token_id, tokenizer), NEW, 9)
    for i, prompt in enumerate(prompts):
        decoder.add(i, prompt, expected[i])
    assert dict(decoder.finished()) == dict(enumerate(expected))
    assert passes == [sum(min(len(ids), NEW - 1) + 1 for ids in expected)]
    assert decoder.wants_drafts
    for i in range(8):
        decoder.add(i, prompts[0], [(expected[0][0] + 1) % 250] * NEW)
    decoder.finished()
    handle.remove()
    assert not decoder.wants_drafts


def test_a_shared_beginning_is_computed_once(llama):
    model, tokenizer = llama
    shared = [i % 250 for i in range(50)]
    prompts = [[*shared, i, i + 1] for i in range(20)]
    expected = one_by_one(model, tokenizer, prompts)
    embedded = []
    handle = model.model.embed_tokens.register_forward_pre_hook(lambda _, args: embedded.append(args[0].numel()))
    assert decode(model, tokenizer, prompts, 8) == expected
    handle.remove()
    assert sum(embedded) <= 50 + 20 * (2 + NEW)


def test_slots_are_fewer_where_memory_is_short(llama, monkeypatch):
    model, tokenizer = llama
    prompts = ragged_prompts()
    expected = one_by_one(model, tokenizer, prompts)
    decoder = SlotDecoder(model, [tokenizer.eos_token_id], NEW, 64)
    run(decoder, prompts)
    cached = sum(tensor.numel() * 4 for pair in decoder._cache.layers for tensor in pair)
    per_token = cached // (decoder._cache.num_slots * decoder._cache.capacity)
    monkeypatch.setattr(decoding, "CPU_CACHE_BYTES", 3 * 50 * per_token)
    short = SlotDecoder(model, [tokenizer.eos_token_id], NEW, 64)
    assert run(short, prompts) == expected
    assert sum(tensor.numel() * 4 for pair in short._cache.layers for tensor in pair) <= 3 * 50 * per_token
