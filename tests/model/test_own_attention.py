"""Whatever a model hands its attention is computed or left to the model: losses and tokens are transformers' own."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.llama import modeling_llama

from snake_dist.data.packing import Example, pack, pad
from snake_dist.model.decoding import SlotDecoder
from snake_dist.model.own_attention import in_fp32, recorded_attention
from snake_dist.model.packing_proof import knows_attention, use_packed_attention
from snake_dist.model.slot_proof import supports_slots
from snake_dist.training.loss import forward_trained, loss_sum

GROUPED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OF_EIGHT = GROUPED | {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 8}
ROUTED = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

# name: (model type, settings, whether it packs, whether it has slots)
PLANTED = {
    "soft cap": ("gemma2", OF_EIGHT | {"attn_logit_softcapping": 50.0, "sliding_window": 6}, False, False),
    "tight soft cap": ("gemma2", OF_EIGHT | {"attn_logit_softcapping": 1.0}, False, False),
    "gemma2 without its cap": ("gemma2", OF_EIGHT | {"attn_logit_softcapping": None, "sliding_window": 6}, True, True),
    "sinks": ("gpt_oss", OF_EIGHT | {"num_local_experts": 4, "sliding_window": 6}, False, False),
    "windows in some layers": ("gemma3_text", OF_EIGHT | {"num_hidden_layers": 6, "sliding_window": 6}, True, True),
    "a window longer than the proof": ("mistral", GROUPED | {"sliding_window": 40}, True, True),
    "chunks": ("llama4_text", OF_EIGHT | {"attention_chunk_size": 6, "num_local_experts": 2}, False, False),
    "chunks longer than the proof": (
        "llama4_text",
        OF_EIGHT | {"attention_chunk_size": 40, "num_local_experts": 2},
        False,
        False,
    ),
    "ALiBi of bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, False, False),
    "ALiBi of mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, False, False),
    "ALiBi of falcon": (
        "falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
        False,
        False,
    ),
    "a mask of the layer's own": ("doge", GROUPED, False, False),
    "keywords kept back": ("nemotron", GROUPED, False, False),
    "short convolutions": ("lfm2", GROUPED | {"layer_types": ["conv", "full_attention"]}, False, False),
    "experts": ("qwen3_moe", OF_EIGHT | EXPERTS, True, True),
    "values narrower than keys": ("deepseek_v3", GROUPED | {"num_key_value_heads": 4} | LATENT | ROUTED, True, False),
}


def model_of(family, settings):
    ids = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": 1}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=128, **{"initializer_range": 0.3} | ids | settings)
    return AutoModelForCausalLM.from_config(config).eval()


def examples():
    draw = np.random.default_rng(0)
    return [Example(draw.integers(2, 128, size=n), num_prompt_tokens=k) for n, k in [(61, 20), (11, 4), (47, 30)]]


def own_loss(model):
    """The sum over all trained tokens by transformers, each example by itself."""
    total = torch.zeros(())
    for example in examples():
        ids = torch.tensor(example.input_ids)[None]
        labels = ids.clone()
        labels[0, : example.num_prompt_tokens] = -100
        total += model(input_ids=ids, labels=labels).loss * example.num_loss_tokens
    return total.item()


def own_tokens(model, prompt, n):
    """Greedy, without a cache."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", PLANTED)
def test_losses_and_tokens_are_those_of_transformers(name):
    family, settings, packs, has_slots = PLANTED[name]
    model = model_of(family, settings)
    own_attention = model.config._attn_implementation
    prompts = [
        [int(token) for token in example.input_ids[:n]] for example, n in zip(examples(), (50, 9, 44), strict=True)
    ]
    with torch.no_grad():
        expected, tokens = own_loss(model), [own_tokens(model, prompt, 4) for prompt in prompts]
        assert supports_slots(model) == has_slots
        assert model.config._attn_implementation == own_attention
        if has_slots:
            decoder = SlotDecoder(model, [], 4, 2)
            for i, prompt in enumerate(prompts):
                decoder.add(i, prompt)
            found = {}
            while decoder.is_busy:
                found |= dict(decoder.finished())
            assert [found[i] for i in range(3)] == tokens
        assert use_packed_attention(model) == packs
        logits, labels, _ = forward_trained(model, (pack if packs else pad)(examples()))
    assert loss_sum(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["soft cap", "windows in some layers", "ALiBi of mpt", "keywords kept back"])
def test_a_plan_knows_without_weights_who_is_padded(name):
    family, settings, packs, _ = PLANTED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=128, **settings))
    assert knows_attention(model) == packs


@pytest.fixture
def llama_with():
    """A Llama whose attention is the test's: nothing that the model hands over names it."""

    def make(attention=sdpa_attention_forward):
        AttentionInterface.register("tests_attention", attention)
        AttentionMaskInterface.register("tests_attention", sdpa_mask)
        model = model_of("llama", GROUPED)
        model.set_attn_implementation("tests_attention")
        return model

    yield make
    del AttentionInterface._global_mapping["tests_attention"]
    del AttentionMaskInterface._global_mapping["tests_attention"]


def capped(_module, query, key, value, attention_mask, *, scaling, **_):
    key, value = (tensor.repeat_interleave(2, dim=1) for tensor in (key, value))
    scores = 50 * torch.tanh(query @ key.transpose(2, 3) * scaling / 50)
    scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


def biased(module, query, key, value, attention_mask, **options):
    distance = torch.arange(key.shape[2]) - torch.arange(query.shape[2])[:, None]
    bias = (0.01 * distance).masked_fill(~attention_mask, float("-inf"))
    return sdpa_attention_forward(module, query, key, value, bias, **options)


def without_the_last_head(*args, **options):
    output, _ = sdpa_attention_forward(*args, **options)
    return torch.cat([output[:, :, :-1], output[:, :, -1:] * 0], dim=2), None


def test_a_plain_llama_passes_with_the_same_set_up(llama_with):
    assert use_packed_attention(llama_with())


@pytest.mark.parametrize("attention", [capped, biased, without_the_last_head])
def test_what_no_keyword_names_is_seen(llama_with, attention):
    model = llama_with(attention)
    assert not supports_slots(model)
    assert not use_packed_attention(model)
    assert model.config._attn_implementation == "tests_attention"


@pytest.mark.parametrize("length", [5, 100, 1500])
def test_a_mask_is_followed_to_the_longest_input(monkeypatch, length):
    def narrower(_batch, _head, query, key):
        return key > query - length

    model, make_mask = model_of("llama", GROUPED), modeling_llama.create_causal_mask
    monkeypatch.setattr(modeling_llama, "create_causal_mask", partial(make_mask, and_mask_function=narrower))
    assert not supports_slots(model)
    assert not use_packed_attention(model)


def test_a_kernel_that_disagrees_with_fp32_is_not_trained_with(monkeypatch):
    from snake_dist.model.cpu_attention import PackedCausalAttention

    assert use_packed_attention(model_of("llama", GROUPED).bfloat16())
    real = PackedCausalAttention.apply

    def spoilt(query, *args):
        return real(query, *args) if query.dtype == torch.float32 else real(query * 1.2, *args)

    monkeypatch.setattr(PackedCausalAttention, "apply", spoilt)
    assert not use_packed_attention(model_of("llama", GROUPED).bfloat16())


def test_the_kernel_is_tried_where_it_will_train():
    """A base that waits on the CPU for ZeRO-3: on "meta" nothing can be compared, which is an error and no verdict."""
    with pytest.raises(NotImplementedError, match="meta"):
        use_packed_attention(model_of("llama", GROUPED), torch.device("meta"))


def test_the_proof_computes_in_fp32_and_leaves_the_weights_as_they_were():
    model = model_of("llama", GROUPED).bfloat16()
    wide = model_of("llama", GROUPED).bfloat16().float()
    before = {name: (parameter.data_ptr(), parameter.dtype) for name, parameter in model.named_parameters()}
    ids = torch.arange(2, 60)[None]
    most = []

    def count(*_):
        most.append(sum(p.numel() for p in model.parameters() if p.dtype == torch.float32))

    handles = [layer.self_attn.register_forward_hook(count) for layer in model.model.layers]
    with torch.no_grad(), in_fp32(model), recorded_attention(model) as calls:
        logits = model(ids).logits
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        assert torch.equal(logits, wide(ids).logits)
    assert len(calls) == 2
    assert max(most) == sum(p.numel() for p in model.model.layers[0].parameters())
    assert {name: (parameter.data_ptr(), parameter.dtype) for name, parameter in model.named_parameters()} == before
