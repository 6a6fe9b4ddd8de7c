"""The sizes of a model with its adapter, from a copy without weights (on torch's "meta" device)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from snake_dist.errors import InputError
from snake_dist.model import adapters, base
from snake_dist.model.targets import is_linear
from snake_dist.planning.shapes import Linear, ModelSizes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

# Activation function -> the number of tensors that it keeps, unless it is one.
_KEPT = {"gelu_new": 4, "gelu_fast": 4, "relu": 0}
# Matrices that end a block: they never share the input of the matrix before, even if widths are equal.
_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "down_proj", "fc2", "dense_4h_to_h", "fc_out")


def describe_model(model_config: base.ModelConfig, adapter: adapters.AdapterConfig) -> ModelSizes:
    """Return the sizes of a base model with its adapter, from its configuration alone. Raises InputError."""
    base.quieten_libraries()
    remote_code = model_config.trust_remote_code
    location = base.find_base(model_config)
    config = base.read_config(location, trust_remote_code=remote_code)
    return sizes_of(config, adapter, trust_remote_code=remote_code)


def sizes_of(
    config: PretrainedConfig, adapter: adapters.AdapterConfig, *, trust_remote_code: bool = False
) -> ModelSizes:
    """Return the sizes of a configuration's model. Raises InputError unless its layers are plain decoder layers."""
    import torch
    from transformers import AutoModelForCausalLM

    from snake_dist.model.packing_proof import knows_attention

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        num_base = sum(parameter.numel() for parameter in model.parameters())
        head = model.get_output_embeddings()
        tied = head is not None and head.weight is model.get_input_embeddings().weight
        model = adapters.attach_to_shapes(model, adapter)
    text = config.get_text_config()
    layers = next(
        (
            module
            for module in model.modules()
            if isinstance(module, torch.nn.ModuleList) and len(module) == text.num_hidden_layers
        ),
        None,
    )
    layer = layers[0] if layers is not None else torch.nn.Identity()
    linears = layer_linears(layer)
    num_frozen = sum(parameter.numel() for parameter in layer.parameters() if not parameter.requires_grad)
    if not linears or sum(linear.weights for linear in linears) < 0.9 * num_frozen:
        raise InputError(
            f"--base-model: its type {config.model_type!r} does not have plain decoder layers (a mixture of experts?), "
            "which a plan needs"
        )
    heads = text.num_attention_heads
    norms = {type(module).__name__ for module in model.modules()}
    inner = linears[-1].inputs
    # Two matrices lead into the last one, or one of twice the width.
    is_gated = sum(linear.outputs for linear in linears if linear.outputs in (inner, 2 * inner)) >= 2 * inner
    names = ("hidden_act", "hidden_activation", "activation_function", "activation")
    activation = next((getattr(text, name) for name in names if getattr(text, name, None)), "gelu")
    return ModelSizes(
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_heads=heads,
        num_key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        intermediate_size=inner,
        mlp_tensors=_KEPT.get(activation, 1) + (2 if is_gated else 0),
        norm="rms" if any("RMSNorm" in name for name in norms) else "layer",
        vocabulary=text.vocab_size,
        linears=linears,
        num_base=num_base,
        num_trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        rank=adapters.adapter_size(adapter).rank,
        kept_outputs={"dora": 2, "adalora": 1}.get(adapter.adapter, 0),
        own_norms=any(hasattr(module, "variance_epsilon") for module in model.modules()),
        plain_lora=adapter.adapter in ("lora", "qlora", "rslora", "pissa"),
        tied=tied,
        normed_heads=any(name.endswith("q_norm") for name, _ in layer.named_modules()),
        packs=knows_attention(model.get_base_model()),
    )


def layer_linears(layer: nn.Module) -> tuple[Linear, ...]:
    """List the matrices of a decoder layer, adapted or not, in the order of their definition."""
    linears: list[Linear] = []
    parents: list[str] = []
    for name, module in layer.named_modules():
        adapted = hasattr(module, "base_layer")
        matrix = module.base_layer if adapted else module
        if not is_linear(matrix) or ".base_layer" in name or ".lora_" in name:
            continue
        rows, columns = matrix.weight.shape
        inputs, outputs = (rows, columns) if type(matrix).__name__ == "Conv1D" else (columns, rows)
        parent, own = name.rpartition(".")[::2]
        shares = bool(linears) and parents[-1] == parent and linears[-1].inputs == inputs and own not in _OUTPUTS
        linears.append(Linear(inputs, outputs, adapted, shares))
        parents.append(parent)
    return tuple(linears)
