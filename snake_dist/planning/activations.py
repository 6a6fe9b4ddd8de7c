"""The bytes that a training step keeps for its backward pass, operation by operation.

They are exact for Llama-like decoders; `docs/plan.md` states the error for others. c is the size of an element of the
compute dtype. All counts are per token unless a length is named.
"""

from __future__ import annotations

from snake_dist.planning.shapes import FP32, MicroBatch, ModelSizes, Setup


def norm(model: ModelSizes, setup: Setup) -> float:
    """Count one norm of the whole width. RMSNorm keeps its input, in fp32 unless it is this package's, and 1/rms;
    LayerNorm keeps its input, mean and 1/std."""
    if model.norm == "rms" and setup.fast and model.own_norms:
        return setup.element * model.hidden_size + FP32
    if model.norm == "rms":
        return FP32 * model.hidden_size + FP32
    return setup.element * model.hidden_size + 2 * FP32


def adapter_inputs(model: ModelSizes, setup: Setup) -> float:
    """Count the inputs of lora_A, low-rank activations and dropout masks (an element has a byte on CUDA, c on a CPU).
    A frozen matrix keeps nothing, except under ZeRO-3, where DeepSpeed's linear keeps its input."""
    c, total = setup.element, 0.0
    is_fast = setup.fast and model.plain_lora and not setup.nf4
    mask = 0 if not setup.dropout else c if setup.on_cpu and not is_fast else 1
    for linear in model.linears:
        plain_input = 0 if linear.shares_input else c * linear.inputs
        if linear.adapted:
            total += c * model.rank
            # The fast path draws one mask for all matrices that read the same input.
            is_shared = linear.shares_input and (is_fast or not setup.dropout)
            total += 0 if is_shared else linear.inputs * (mask + c)
            total += model.kept_outputs * c * linear.outputs
        if setup.stage == 3 and (setup.dropout or not linear.adapted):
            total += plain_input
    return total


def attention(model: ModelSizes, setup: Setup, length: int) -> float:
    """Count queries, keys and values as the kernel takes them (keys and values repeated for all heads), its output, and
    1 number per head (flash) or the softmax of the scores. Normed heads keep queries and keys in fp32 too."""
    c = setup.element
    num_bytes = 4.0 * c * model.attention_size
    if model.normed_heads:
        num_bytes += (c if setup.fast and model.own_norms else FP32) * (model.attention_size + model.key_value_size)
    if model.packs and setup.on_cpu:
        # This package's own kernel: keys are not repeated, maxima and sums are kept, the weights of short examples.
        weights = min(length, length / 2 + 64) if length <= 512 else 0
        own = 2 * c * (model.attention_size + model.key_value_size)
        return num_bytes - 4 * c * model.attention_size + own + model.num_heads * (2 * FP32 + c * weights)
    if model.packs:
        return num_bytes + FP32 * model.num_heads
    return num_bytes + model.num_heads * length * (FP32 + (c if c < FP32 else 0))


def mlp(model: ModelSizes, setup: Setup) -> float:
    """Count the MLP's tensors. SwiGLU keeps three: gate, its activation and up. GELU keeps its input, or four tensors
    when it is written in single operations ("gelu_new"). ReLU keeps only its output, the next matrix's input."""
    return setup.element * model.intermediate_size * model.mlp_tensors


def layer_bytes(model: ModelSizes, setup: Setup, length: int) -> float:
    """Count one decoder layer, per token of examples of `length` tokens."""
    return 2 * norm(model, setup) + adapter_inputs(model, setup) + attention(model, setup, length) + mlp(model, setup)


def loss_temporaries(setup: Setup, num_logits: float) -> float:
    """Count the loss's temporaries: two fp32 copies of the logits of one chunk (training/cross_entropy)."""
    return 2 * FP32 * min(num_logits, float(1 << 19 if setup.on_cpu else 1 << 26))


def norm_gradient(model: ModelSizes, setup: Setup) -> float:
    """Count the temporaries of an RMSNorm's backward pass: five fp32 tensors of its width, or three and one in c."""
    width = model.hidden_size
    return (3 * FP32 + setup.element) * width if setup.fast and model.own_norms else 5 * FP32 * width


def step_bytes(model: ModelSizes, setup: Setup, batch: MicroBatch) -> dict[str, float]:
    """Return the bytes of activations, logits and temporaries when their sum is highest.

    That is in the backward pass of the loss, of the last norm or of the last layer's MLP.
    """
    c, hidden, tokens = setup.element, model.hidden_size, batch.tokens
    layer = layer_bytes(model, setup, batch.tokens_per_example) * tokens
    last_norm = norm(model, setup) * tokens
    rope = 2 * c * model.head_size * tokens
    num_logits = batch.trained_tokens * model.vocabulary
    if setup.gradient_checkpointing:
        activations = model.num_layers * c * hidden * tokens + last_norm + rope
    else:
        # The first norm works on embeddings, which need no gradient.
        activations = model.num_layers * layer + rope
    mlp_grads = c * (2 * model.intermediate_size + hidden) * tokens
    weight = c * model.largest_matrix if setup.nf4 else 0
    recomputed = layer if setup.gradient_checkpointing else 0
    moments = [
        {"activations": activations, "logits": num_logits * c, "temporaries": loss_temporaries(setup, num_logits)},
        {"activations": activations, "logits": num_logits * c, "temporaries": norm_gradient(model, setup) * tokens},
        {
            "activations": activations - last_norm + recomputed,
            "logits": num_logits * c,
            "temporaries": mlp_grads + weight,
        },
    ]
    return max(moments, key=lambda moment: sum(moment.values()))
