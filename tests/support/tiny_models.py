"""Random language models of a few thousand weights, saved as a user's local model directory would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def tiny_tokenizer(directory: Path) -> Path:
    """Save a byte-level tokenizer: any text passes through it; it has `<eos>` and, like many, no pad."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(directory)
    return directory


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template in the format of many instruct models; it marks what the assistant says."""


def add_chat_template(directory: Path, template: str = CHATML, bos: str | None = None) -> None:
    """Give the saved tokenizer a chat template, with its two tokens, which the model must have embeddings for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    special = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]} | ({"bos_token": bos} if bos else {})
    tokenizer.add_special_tokens(special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


def tiny_llama(directory: Path, seed: int = 0, **overrides: Any) -> Path:
    """Save a random fp32 Llama (hidden 32, 2 layers) and its tokenizer; `overrides` go into LlamaConfig."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(directory))
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": None,
        # The usual 0.02 gives all but flat logits: with more, what comes next depends clearly on the context.
        "initializer_range": 0.5,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**shape | overrides)).save_pretrained(directory)
    return directory


# One config per architecture users bring; sizes are the smallest that keep its peculiarities (grouped heads,
# transposed Conv1D, ALiBi, fused projections).
_GROUPED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED | {"head_dim": 8},
    "gemma": _GROUPED | {"head_dim": 8},
    "mistral": _GROUPED | {"sliding_window": 6},
    "phi": _GROUPED | {"num_key_value_heads": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048},
    "gpt_neox": _PLAIN | {"intermediate_size": 64, "max_position_embeddings": 2048},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": _PLAIN | {"multi_query": True, "new_decoder_architecture": False},
    "opt": _PLAIN | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 2048},
}
# Mixtures of experts, whose matrices are fused; with shared experts and layers without experts.
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "max_position_embeddings": 512}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 512},
    "qwen3_moe": _GROUPED | _EXPERTS | {"head_dim": 8},
    "deepseek_v3": _GROUPED
    | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    | {"moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1, "max_position_embeddings": 512}
    | {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    "qwen3_next": _GROUPED
    | _EXPERTS
    | {"head_dim": 8, "num_hidden_layers": 4, "shared_expert_intermediate_size": 24, "linear_key_head_dim": 8}
    | {"linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    "gpt_oss": _GROUPED
    | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 512},
}


def tiny_model(directory: Path, family: str, **overrides: Any) -> Path:
    """Save a random fp32 model of this architecture and the tiny tokenizer; `overrides` go into its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(directory))
    ids = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    shape = (SHAPES | MIXTURES)[family] | overrides
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), initializer_range=0.2, **shape, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def tiny_adapter(
    directory: Path,
    base: Path,
    seed: int = 0,
    prompt_hashes: Any = None,
    target_modules: str | list[str] = "all-linear",
    **metadata: Any,
) -> Path:
    """Save a random LoRA adapter of rank 2 on the model in `base`, as a run would, for 5 x 5 compact games."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from snake_dist.checkpoint.plain_lora import PlainAdapter
    from snake_dist.checkpoint.saved_adapter import save_adapter

    model = AutoModelForCausalLM.from_pretrained(base)
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=target_modules, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in get_peft_model_state_dict(peft).items()
    }
    known = {"base_model": str(base), "dtype": "float32", "style": "compact", "max_completion_tokens": 6}
    known |= {"grid_size": 5, "mode": "classic"} | metadata
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    plain = PlainAdapter(peft.peft_config["default"], tensors, shapes, frozenset())
    save_adapter(directory, plain, AutoTokenizer.from_pretrained(base), known, "a test's adapter", prompt_hashes)
    return directory
