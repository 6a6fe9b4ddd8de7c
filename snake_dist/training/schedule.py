"""The learning rate over steps: linear warm-up, then cosine decay."""

from __future__ import annotations

import math


def learning_rate_at(step: int, *, peak: float, num_steps: int, warmup_share: float) -> float:
    """Return the rate for step `step` of `num_steps` (from 0): it rises to `peak` over the first `warmup_share` of the
    steps and falls along a half cosine that would reach 0 one step after the last (Loshchilov and Hutter, 2017)."""
    num_warmup = round(num_steps * warmup_share)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
