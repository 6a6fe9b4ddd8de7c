"""A model, a micro-batch and a setup as plain numbers, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

FP32 = 4
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256
NF4_TABLES = 4 * (16 + 256 + 1)
"""Bytes per matrix: the 16 values of NF4, the 256 of the nested 8-bit code and its offset, all fp32."""


@dataclass(frozen=True)
class Linear:
    """One matrix of a decoder layer."""

    inputs: int
    outputs: int
    adapted: bool
    """Whether an adapter sits on it."""
    shares_input: bool = False
    """Whether it has the input of the matrix before it (k and v have q's, up has gate's)."""

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class ModelSizes:
    """A decoder whose layers are all alike."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_size: int
    intermediate_size: int
    """Width of the MLP's inner activation."""
    mlp_tensors: int
    """Number of tensors of that width that the MLP's activation keeps for the backward pass."""
    norm: Literal["rms", "layer"]
    """RMSNorm computes in fp32 and keeps its fp32 input; LayerNorm keeps its input in the compute dtype."""
    vocabulary: int
    linears: tuple[Linear, ...]
    """Matrices of one decoder layer, in the order of their use."""
    num_base: int
    """Parameters of the base model, tied ones once."""
    num_trainable: int
    rank: int
    """Rank of the adapter."""
    kept_outputs: int = 0
    """Tensors of its output's width that an adapted matrix keeps: DoRA 2, for its magnitude's gradient; AdaLoRA 1,
    for that of its number of ranks, which PEFT leaves trainable."""
    own_norms: bool = True
    """Whether this package has an operation for its kind of RMSNorm (Llama's; not Gemma's)."""
    plain_lora: bool = True
    """Whether the adapter computes just W x + B A x (lora, qlora, rslora, pissa), which without NF4 has a fast path."""
    normed_heads: bool = False
    """Whether queries and keys are normed too, head by head (Qwen3)."""
    tied: bool = False
    """Whether the output head is the embedding."""
    packs: bool = True
    """Whether attention runs example by example; otherwise it keeps all scores."""

    @property
    def num_layer_weights(self) -> int:
        """Weights of the matrices of all decoder layers, which 4-bit loading quantizes."""
        return self.num_layers * sum(linear.weights for linear in self.linears)

    @property
    def num_forward_only(self) -> int:
        """Weights that the backward pass does not need, because their input needs no gradient: the embedding (unless it
        is the head too), the first norm, the first matrices of the first layer."""
        first = sum(linear.weights for i, linear in enumerate(self.linears) if i == 0 or self._reads_input(i))
        return (0 if self.tied else self.vocabulary * self.hidden_size) + self.hidden_size + first

    def _reads_input(self, index: int) -> bool:
        return all(linear.shares_input for linear in self.linears[1 : index + 1])

    @property
    def largest_matrix(self) -> int:
        return max(linear.weights for linear in self.linears)

    @property
    def largest_module(self) -> int:
        """Elements of the largest weight, embeddings included: ZeRO-3 gathers it whole."""
        return max(self.largest_matrix, self.vocabulary * self.hidden_size)

    @property
    def attention_size(self) -> int:
        """Width of queries, all heads together."""
        return self.num_heads * self.head_size

    @property
    def key_value_size(self) -> int:
        return self.num_key_value_heads * self.head_size


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank."""

    num_examples: int
    tokens_per_example: int
    """Tokens of the longest example, to which a padded micro-batch pads all."""
    trained_share: float
    """Share of the tokens that are trained: only they get logits."""

    @property
    def tokens(self) -> int:
        return self.num_examples * self.tokens_per_example

    @property
    def trained_tokens(self) -> float:
        return self.tokens * self.trained_share


@dataclass(frozen=True)
class Setup:
    """How ranks store and train the model."""

    stage: int
    """ZeRO stage, 0 to 3."""
    num_ranks: int
    dtype: str = "bfloat16"
    """dtype of computation, adapter and unquantized base."""
    nf4: bool = False
    """Whether the matrices of the decoder layers are in 4-bit NF4."""
    double_quant: bool = True
    """Whether NF4's scales are quantized too."""
    on_cpu: bool = False
    """Whether ranks run on CPUs, whose kernels keep other tensors, and where an untouched buffer takes no memory."""
    dropout: float = 0.0
    """Dropout of the adapter; above 0 it keeps masks and dropped inputs."""
    own_operations: bool = True
    """Whether norms and plain LoRA layers run this package's operations, which keep less; at stage 3 they do not."""
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    offload_parameters: bool = False
    """Whether the shards of the base are in host memory (ZeRO-3 only)."""
    hpz_ranks: int = 0
    """ZeRO-3 over several nodes: ranks that share a second copy of the shards, so that backward gathers stay in the
    node (hpZ of ZeRO++); 0 without hpZ."""
    reduce_bucket: int = 500_000_000
    """Elements of DeepSpeed's gradient bucket, which it allocates whole on a GPU."""
    overlap_comm: bool = False
    """Whether stages 1 and 2 have two buckets instead of one."""
    max_live: int = 1_000_000_000
    """stage3_max_reuse_distance, in elements: ZeRO-3 keeps gathered weights that it needs again within it."""
    prefetch_bucket: int = 50_000_000
    persistence_threshold: int = 100_000
    """ZeRO-3 leaves parameters with fewer elements whole on every rank."""

    @property
    def fast(self) -> bool:
        return self.own_operations and self.stage < 3

    @property
    def element(self) -> int:
        """Bytes of an element of the compute dtype."""
        return BYTES[self.dtype]


def nf4_scale_bytes(model: ModelSizes, *, double_quant: bool) -> int:
    """Return the bytes of NF4's scales and of the code tables of each matrix. The scales are an fp32 per 64 weights, or
    with double quantization one byte, and an fp32 per 256 scales. Dettmers et al., QLoRA, 2023, section 3."""
    total = 0
    for linear in model.linears:
        num_blocks = math.ceil(linear.weights / NF4_BLOCK)
        nested = num_blocks + FP32 * math.ceil(num_blocks / NF4_NESTED_BLOCK) + NF4_TABLES
        total += nested if double_quant else FP32 * (num_blocks + 16)
    return model.num_layers * total


def base_bytes(model: ModelSizes, setup: Setup) -> float:
    """Return the bytes of the whole frozen base on one device."""
    return shardable_bytes(model, setup) + (nf4_scale_bytes(model, double_quant=setup.double_quant) if setup.nf4 else 0)


def shardable_bytes(model: ModelSizes, setup: Setup) -> float:
    """Return the bytes of the base that ZeRO-3 shards: not bitsandbytes' scales, which are no parameters."""
    if not setup.nf4:
        return model.num_base * setup.element
    return model.num_layer_weights / 2 + (model.num_base - model.num_layer_weights) * setup.element
