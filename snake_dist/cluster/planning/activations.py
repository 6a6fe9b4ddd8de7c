"""Bytes that a training step keeps for its backward pass, operation by operation.

Exact for Llama-like decoders; `docs/plan.md` says how far off it is for others. c is the size of an element of the
compute dtype. All counts are per token, but where a length is named.
"""

from __future__ import annotations

from snake_dist.cluster.planning.shapes import FP32, MicroBatch, ModelSizes, Setup


def norm(model: ModelSizes, setup: Setup) -> float:
    """One norm of the whole width. RMSNorm: its input in fp32 and 1/rms. LayerNorm: its input, mean and 1/std."""
    if model.norm == "rms":
        return FP32 * model.hidden_size + FP32
    return setup.element * model.hidden_size + 2 * FP32


def adapter_inputs(model: ModelSizes, setup: Setup) -> float:
    """Inputs of lora_A, low-rank activations and dropout masks (CUDA's have a byte an element, PyTorch's on a CPU c).
    A frozen matrix keeps nothing, but under ZeRO-3, where DeepSpeed's linear keeps its input."""
    c, total = setup.element, 0.0
    mask = 0 if not setup.dropout else c if setup.on_cpu else 1
    for linear in model.linears:
        plain_input = 0 if linear.shares_input else c * linear.inputs
        if linear.adapted:
            total += c * model.rank
            total += linear.inputs * (mask + c) if setup.dropout else plain_input
            # DoRA scales the products: base and low-rank output are both needed for the magnitude's gradient.
            total += 2 * c * linear.outputs if model.dora else 0
        if setup.stage == 3 and (setup.dropout or not linear.adapted):
            total += plain_input
    return total


def attention(model: ModelSizes, setup: Setup, length: int) -> float:
    """Queries, keys and values as the kernel takes them (keys and values repeated for all heads), its output, and
    1 number a head (flash) or the scores' softmax. Normed heads keep queries and keys in fp32 too."""
    c = setup.element
    kept = 4.0 * c * model.attention_size
    if model.normed_heads:
        kept += FP32 * (model.attention_size + model.key_value_size)
    if model.packs:
        return kept + FP32 * model.num_heads
    return kept + model.num_heads * length * (FP32 + (c if c < FP32 else 0))


def mlp(model: ModelSizes, setup: Setup) -> float:
    """SwiGLU keeps three tensors: gate, its activation and up. GELU keeps its input; written out in single
    operations ("gelu_new") four tensors; ReLU only its output, which is the next matrix's input."""
    return setup.element * model.intermediate_size * model.mlp_tensors


def layer_bytes(model: ModelSizes, setup: Setup, length: int) -> float:
    """What one decoder layer keeps, per token, of examples of `length` tokens."""
    return 2 * norm(model, setup) + adapter_inputs(model, setup) + attention(model, setup, length) + mlp(model, setup)


def logit_bytes(setup: Setup) -> int:
    """Per logit at the loss's backward: the logits, the fp32 log-probabilities, their gradient and the logits'."""
    return setup.element + 3 * FP32


def step_bytes(model: ModelSizes, setup: Setup, batch: MicroBatch) -> dict[str, float]:
    """Bytes of activations, logits and temporaries at the moment when their sum is highest.

    Three moments can be it: the loss's backward, the last norm's, the last layer's MLP's.
    """
    c, hidden, tokens = setup.element, model.hidden_size, batch.tokens
    layer = layer_bytes(model, setup, batch.tokens_per_example) * tokens
    last_norm = norm(model, setup) * tokens
    rope = 2 * c * model.head_size * tokens
    num_logits = batch.trained_tokens * model.vocabulary
    if setup.gradient_checkpointing:
        kept = model.num_layers * c * hidden * tokens + last_norm + rope
    else:
        # The first norm works on embeddings, which need no gradient.
        kept = model.num_layers * layer + rope
    mlp_grads = c * (2 * model.intermediate_size + hidden) * tokens
    weight = c * model.largest_matrix if setup.nf4 else 0
    recomputed = layer if setup.gradient_checkpointing else 0
    moments = [
        {"activations": kept, "logits": num_logits * logit_bytes(setup), "temporaries": 0.0},
        {"activations": kept, "logits": num_logits * c, "temporaries": 5 * FP32 * hidden * tokens},
        {
            "activations": kept - last_norm + recomputed,
            "logits": num_logits * c,
            "temporaries": mlp_grads + weight,
        },
    ]
    return max(moments, key=lambda moment: sum(moment.values()))
