"""AdaLoRA's rank allocation (Zhang et al., 2023) for every ZeRO stage, with the same numbers as PEFT's own.

PEFT's `update_and_allocate` reads `p.grad` and edits `p`. Under ZeRO the gradient is freed or sharded by then, and the
optimizer's fp32 master overwrites an edited weight. Here importance is computed from whole gradients before the
optimizer's step, and masked singular values are written to master and working copy after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snake_dist.zero.engine import gradient_norm, was_skipped
from snake_dist.zero.parameters import loss_scale, set_parameter, whole_gradient, whole_parameter

if TYPE_CHECKING:
    import torch
    from peft import AdaLoraConfig, PeftModel


def rank_allocation(engine: Any, model: PeftModel) -> RankAllocation | None:
    """Return the allocation of an AdaLoRA model that `engine` trains; None for every other adapter."""
    config = model.peft_config["default"]
    return RankAllocation(engine, model, config) if hasattr(config, "target_r") else None


class RankAllocation:
    """The importance of every singular value so far, and which of them are masked.

    Call `before_step` after the backward pass of a step's last micro-batch and `after_step` after `engine.step()`.
    All ranks call together and hold the same numbers.
    """

    def __init__(self, engine: Any, model: PeftModel, config: AdaLoraConfig) -> None:
        self.engine, self.config = engine, config
        # Names as in PEFT's rank pattern: those of the model inside the adapter's wrapper.
        inner = model.base_model.model.named_parameters()
        self.parameters = {name: p for name, p in inner if ".lora_" in name and p.requires_grad}
        self.modules = sorted(name.replace(".lora_E.", ".%s.") for name in self.parameters if ".lora_E." in name)
        self.smoothed: dict[str, torch.Tensor] = {}
        """Parameter -> moving average of its sensitivity |weight x gradient|."""
        self.uncertainty: dict[str, torch.Tensor] = {}
        """Parameter -> moving average of how far the sensitivity is from that average."""
        self.masks: dict[str, torch.Tensor] = {}
        """lora_E parameter -> bool [r, 1], False where the singular value is masked; {} before the first decision."""
        self._gradients: dict[str, torch.Tensor] = {}
        self._distances: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            if ".lora_E." not in name:
                parameter.register_hook(self._orthogonality_hook(name, parameter))

    def _orthogonality_hook(self, name: str, parameter: torch.nn.Parameter) -> Any:
        """Return a hook that adds the gradient of PEFT's regularization: weight x mean over matrices of ||P P^T - I||.

        For C = P P^T - I (P^T P - I for B) that of the Frobenius norm ||C|| is 2 C P / ||C||. Each micro-batch
        adds its share, as if the term stood in the loss.
        """
        import torch

        is_a = ".lora_A." in name
        num_matrices = 2 * len(self.modules)

        def add(gradient: torch.Tensor) -> torch.Tensor:
            rows = parameter.detach().float()
            rows = rows if is_a else rows.T
            if rows.numel() == 0:
                raise RuntimeError(f"{name} is sharded during the backward pass")
            excess = rows @ rows.T - torch.eye(rows.shape[0], device=rows.device)
            distance = torch.linalg.matrix_norm(excess)
            self._distances[name] = distance
            weight = self.config.orth_reg_weight / num_matrices
            weight *= loss_scale(self.engine) / self.engine.gradient_accumulation_steps()
            push = excess @ rows * (2 * weight / distance.clamp_min(torch.finfo(torch.float32).tiny))
            return gradient + (push if is_a else push.T).to(gradient.dtype)

        return add

    @property
    def orthogonality(self) -> float:
        """Mean ||P P^T - I|| over all A and B at the last backward pass; PEFT adds half of it to the loss."""
        return sum(float(distance) for distance in self._distances.values()) / len(self._distances)

    def before_step(self, step: int) -> None:
        """Copy the gradients of step `step` (from 1) before the engine frees them."""
        if step < self.config.total_step - self.config.tfinal:
            self._gradients = {name: whole_gradient(self.engine, p) for name, p in self.parameters.items()}

    def after_step(self, step: int) -> None:
        """Do what PEFT's `update_and_allocate(step)` does: update importances, decide, mask."""
        if self._gradients and not was_skipped(self.engine):
            self._update_importance()
        self._gradients = {}
        last = self.config.total_step - self.config.tfinal
        budget, is_due = self.budget(step)
        if step <= last and (is_due or step == last) and self.smoothed:
            self.masks = self._decide(budget)
            self._note_pattern()
            self._apply()
        elif step > last:
            self._apply()
        if step == last:
            self.smoothed, self.uncertainty = {}, {}

    def budget(self, step: int) -> tuple[int, bool]:
        """Return (ranks left after step `step`, whether this step masks down to them): equation 11 of the paper."""
        config, initial = self.config, self.config.init_r * len(self.modules)
        target = config.target_r * len(self.modules)
        if step <= config.tinit:
            return initial, False
        share = 1 - (step - config.tinit) / (config.total_step - config.tfinal - config.tinit)
        return int((initial - target) * share**3 + target), step % config.deltaT == 0

    @property
    def mean_rank(self) -> float:
        """Mean number of singular values per module that are not masked."""
        if not self.masks:
            return float(self.config.init_r)
        return sum(int(mask.sum()) for mask in self.masks.values()) / len(self.masks)

    def metrics(self) -> dict[str, float]:
        """Return what is logged of the allocation."""
        return {"train/mean_rank": self.mean_rank, "train/orthogonality": self.orthogonality}

    def _update_importance(self) -> None:
        """Apply equations 8 to 10 of the paper, with the clipped gradient and the weight after the step."""
        import torch

        limit, norm = self.engine.gradient_clipping(), gradient_norm(self.engine)
        clip = min(1.0, limit / (norm + 1e-6)) if limit and norm is not None else 1.0
        beta1, beta2 = self.config.beta1, self.config.beta2
        for name, gradient in self._gradients.items():
            sensitivity = (whole_parameter(self.engine, self.parameters[name]) * gradient * clip).abs()
            zero = torch.zeros_like(sensitivity)
            self.smoothed[name] = beta1 * self.smoothed.get(name, zero) + (1 - beta1) * sensitivity
            distance = (sensitivity - self.smoothed[name]).abs()
            self.uncertainty[name] = beta2 * self.uncertainty.get(name, zero) + (1 - beta2) * distance

    def _decide(self, budget: int) -> dict[str, torch.Tensor]:
        """Return masks that leave the `budget` singular values with the highest scores."""
        import torch

        scores = {}
        for module in self.modules:
            e, a, b = (self.smoothed[name] * self.uncertainty[name] for name in _matrices(module))
            scores[module % "lora_E"] = e.flatten() + a.mean(dim=1) + b.mean(dim=0)
        everything = torch.cat(list(scores.values()))
        # Not kthvalue: on a GPU it has no deterministic kernel.
        threshold = everything.sort().values[len(everything) - budget - 1]
        return {name: (score > threshold)[:, None] for name, score in scores.items()}

    def _apply(self) -> None:
        for name, mask in self.masks.items():
            parameter = self.parameters[name]
            set_parameter(self.engine, parameter, whole_parameter(self.engine, parameter) * mask)

    def _note_pattern(self) -> None:
        """Set PEFT's rank pattern, by which it saves only rows and columns that are not masked."""
        self.config.rank_pattern = {
            name.replace(".default", ""): mask.flatten().tolist() for name, mask in self.masks.items()
        }

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state that a checkpoint needs: fp32 tensors, the same on every rank and for every world size."""
        kinds = {"smoothed": self.smoothed, "uncertainty": self.uncertainty, "mask": self.masks}
        return {
            f"adalora.{kind}.{name}": tensor.float().cpu()
            for kind, tensors in kinds.items()
            for name, tensor in tensors.items()
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore what `state` returned; the caller restores the parameters themselves."""
        device = self.engine.device
        kinds: dict[str, dict[str, torch.Tensor]] = {"smoothed": {}, "uncertainty": {}, "mask": {}}
        for key, tensor in state.items():
            _, kind, name = key.split(".", 2)
            kinds[kind][name] = tensor.to(device)
        self.smoothed, self.uncertainty = kinds["smoothed"], kinds["uncertainty"]
        self.masks = {name: mask.bool() for name, mask in kinds["mask"].items()}
        if self.masks:
            self._note_pattern()


def _matrices(module: str) -> tuple[str, str, str]:
    return module % "lora_E", module % "lora_A", module % "lora_B"
