"""The state of training, independent of the number of ranks: whole fp32 tensors by parameter name, and a few numbers.

It is gathered from and set into any of DeepSpeed's optimizers: ZeRO 0 to 3, fp32 and low precision, with CPU offload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from snake_dist.errors import InputError

if TYPE_CHECKING:
    import torch

MASTER = "master"
"""Prefix of the fp32 parameters; the optimizer's own names (exp_avg, exp_avg_sq) are the others."""
ADALORA = "adalora."
"""Prefix of AdaLoRA's importances and masks, which only its allocator reads."""
_SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def gather_state(engine: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return ("KIND/PARAMETER" -> fp32 tensor on the CPU, numbers: optimizer steps and loss scaler). Collective.

    The tensors are copies: later steps do not change them. Before the first step the optimizer has masters only.
    """
    import torch

    kinds, steps = _optimizer_kinds(engine)
    plain = _plain_tensors(engine)
    names, parameters = zip(*trainable(engine.module), strict=True)
    tensors = {}
    for kind in (MASTER, *kinds):
        if plain is not None:
            wholes = [plain[p].get(kind, torch.zeros_like(p, dtype=torch.float32)) for p in parameters]
        elif hasattr(parameters[0], "ds_id"):
            wholes = [_sharded(parameter, kind) for parameter in parameters]
        else:
            wholes = _from_fragments(parameters, kind)
        for name, tensor in zip(names, wholes, strict=True):
            tensors[f"{kind}/{name}"] = tensor.detach().to("cpu", torch.float32, copy=True)
    return tensors, {"optimizer_steps": steps, "loss_scaler": _scaler_numbers(engine)}


def load_masters(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Set the trainable parameters before the engine starts, which derives its own copies from them.

    Raises InputError unless the tensors are those of this model.
    """
    expected = {name: tuple(parameter.shape) for name, parameter in trainable(model)}
    for kind in _kinds_in(tensors):
        saved = {key[len(kind) + 1 :]: tuple(t.shape) for key, t in tensors.items() if key.startswith(f"{kind}/")}
        wrong = sorted(name for name in saved.keys() | expected.keys() if saved.get(name) != expected.get(name))
        if wrong:
            raise InputError(
                f"checkpoint: {kind} of {wrong[0]} has shape {saved.get(wrong[0])}, "
                f"but the model's has {expected.get(wrong[0])}"
            )
    for name, parameter in trainable(model):
        parameter.data.copy_(tensors[f"{MASTER}/{name}"])


def load_state(engine: Any, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
    """Set masters, moments, step count and loss scaler of a new engine, after `load_masters`. Collective."""
    kinds = _kinds_in(tensors)
    steps = numbers["optimizer_steps"]
    if steps is not None:
        _create_optimizer_state(engine, [kind for kind in kinds if kind != MASTER], steps)
    plain = _plain_tensors(engine)
    for name, parameter in trainable(engine.module):
        for kind in kinds:
            value = tensors[f"{kind}/{name}"]
            if plain is None:
                set_partitioned(parameter, kind, value)
            else:
                plain[parameter][kind].data.copy_(value)
    scaler = _loss_scaler(engine)
    for field, value in numbers["loss_scaler"].items():
        if hasattr(scaler, field):
            setattr(scaler, field, value)


def _kinds_in(tensors: dict[str, torch.Tensor]) -> list[str]:
    return sorted({key.split("/", 1)[0] for key in tensors if not key.startswith(ADALORA)})


def trainable(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield name and parameter of everything that is trained."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _inner_optimizer(engine: Any) -> Any:
    """Return the torch optimizer that DeepSpeed wraps, or uses as it is."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _flat_masters(engine: Any) -> list[torch.Tensor]:
    """Return the tensors that the inner optimizer has a state for."""
    optimizer = engine.optimizer
    # ZeRO 3; ZeRO 1 and 2; bf16 with fp32 accumulation.
    for attribute in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, attribute):
            return list(getattr(optimizer, attribute))
    return [master for group in _inner_optimizer(engine).param_groups for master in group["params"]]


def _optimizer_kinds(engine: Any) -> tuple[list[str], int | None]:
    """Return (names of the optimizer's elementwise states, its step count); ([], None) before the first step."""
    import torch

    inner = _inner_optimizer(engine)
    state = next((state for state in inner.state.values() if state), None)
    if state is None:
        return [], None
    kinds = sorted(kind for kind, value in state.items() if torch.is_tensor(value) and value.dim() > 0)
    return kinds, int(state.get("step", 0))


def _create_optimizer_state(engine: Any, kinds: list[str], steps: int) -> None:
    """Create the state that the inner optimizer would create in its first step."""
    import torch

    inner = _inner_optimizer(engine)
    # torch's own optimizers count in a tensor, DeepSpeed's in an integer.
    in_tensor = type(inner).__module__.startswith("torch.")
    for master in _flat_masters(engine):
        state: dict[str, Any] = {kind: torch.zeros_like(master, dtype=torch.float32) for kind in kinds}
        inner.state[master] = {"step": torch.tensor(float(steps)) if in_tensor else steps, **state}
    # ZeRO 1 and 2 and bf16 map parameters to their part of the state after the first step; now is that time.
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


def _sharded(parameter: torch.nn.Parameter, kind: str) -> torch.Tensor:
    """ZeRO 3: return one whole master or optimizer state."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if kind == MASTER:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, kind)


def _from_fragments(parameters: Sequence[Any], kind: str) -> list[torch.Tensor]:
    """ZeRO 1 and 2: return the whole masters or optimizer states, gathered in one collective.

    DeepSpeed's own `safe_get_full_*` needs one per parameter: 1,260 for SmolLM2's adapter, more than a step's time.
    """
    import torch

    sizes = [parameter.numel() for parameter in parameters]
    flat = torch.zeros(sum(sizes), dtype=torch.float32, device=parameters[0].device)
    wholes = flat.split(sizes)
    for parameter, whole in zip(parameters, wholes, strict=True):
        mapping = parameter._hp_mapping  # None where other ranks hold all of it
        if mapping is not None:
            address = mapping.lp_fragment_address
            fragment = mapping.get_hp_fragment(None if kind == MASTER else kind)
            whole.narrow(0, address.start, address.numel).copy_(fragment.data)
    torch.distributed.all_reduce(flat, group=parameters[0]._dp_group)
    return [whole.view_as(parameter) for parameter, whole in zip(parameters, wholes, strict=True)]


def own_shard(parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """ZeRO 3: return this rank's part of a whole tensor, with zeros behind its end.

    DeepSpeed's setters of whole tensors fail where a parameter does not divide evenly.
    """
    import torch

    size = parameter.ds_tensor.numel()
    padded = value.new_zeros(size * torch.distributed.get_world_size())
    padded[: value.numel()] = value.flatten()
    return padded.narrow(0, size * torch.distributed.get_rank(), size)


def set_partitioned(parameter: Any, kind: str, value: torch.Tensor) -> None:
    """Set the optimizer's own tensor of a parameter that ZeRO shards to this value, which all ranks have."""
    import deepspeed.utils

    if not hasattr(parameter, "ds_id"):
        if kind == MASTER:
            deepspeed.utils.safe_set_full_fp32_param(parameter, value)
        else:
            deepspeed.utils.safe_set_full_optimizer_state(parameter, value, kind)
        return
    part = own_shard(parameter, value)
    if kind == MASTER:
        deepspeed.utils.safe_set_local_fp32_param(parameter, part)
    else:
        deepspeed.utils.safe_set_local_optimizer_state(parameter, part, kind)


def _plain_tensors(engine: Any) -> dict[torch.nn.Parameter, dict[str, torch.Tensor]] | None:
    """Return parameter -> kind -> its master and states if each rank has them whole (ZeRO 0); else None."""
    import torch

    optimizer, inner = engine.optimizer, _inner_optimizer(engine)
    parameters = [parameter for _, parameter in trainable(engine.module)]
    if any(hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping") for parameter in parameters):
        return None
    views: dict[torch.nn.Parameter, dict[str, torch.Tensor]] = {}

    def add(parameter: torch.nn.Parameter, master: torch.Tensor, state: dict[str, Any]) -> None:
        tensors = {kind: value for kind, value in state.items() if torch.is_tensor(value) and value.dim() > 0}
        views[parameter] = {MASTER: master, **tensors}

    if hasattr(optimizer, "fp32_groups_flat"):  # fused: one flat master for each group
        for group, flat in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
            start = 0
            for parameter in group:
                part = slice(start, start + parameter.numel())
                cut = {
                    k: v[part].view_as(parameter)
                    for k, v in inner.state[flat].items()
                    if torch.is_tensor(v) and v.dim()
                }
                add(parameter, flat.detach()[part].view_as(parameter), cut)
                start = part.stop
    elif hasattr(optimizer, "fp32_groups"):  # one master for each parameter
        for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(group, masters, strict=True):
                add(parameter, master, inner.state[master])
    else:  # fp32: the parameters themselves
        for parameter in parameters:
            add(parameter, parameter, inner.state[parameter])
    return views


def _loss_scaler(engine: Any) -> Any:
    optimizer = engine.optimizer
    return getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)


def _scaler_numbers(engine: Any) -> dict[str, float]:
    scaler = _loss_scaler(engine)
    numbers = {field: getattr(scaler, field, None) for field in _SCALER_FIELDS}
    return {field: value for field, value in numbers.items() if value is not None}
