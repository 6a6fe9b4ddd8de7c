"""Loss and accuracy on held-out examples, teacher-forced, by all ranks together."""

from __future__ import annotations

import numpy as np

from snake_dist.accelerator import uncompiled
from snake_dist.data.dataset import TokenizedDataset
from snake_dist.training.loss import forward_trained, loss_sum
from snake_dist.training.metrics import EXACT_COMPLETIONS, HELD_OUT_LOSS, Metrics
from snake_dist.training.trainer import Trainer


def held_out_metrics(trainer: Trainer, dataset: TokenizedDataset, examples: np.ndarray) -> Metrics:
    """Return `eval/loss` (nats per trained token), `eval/token_accuracy` and `eval/exact_completions`.

    The last is the share of examples in which every trained token has the highest logit: those whose completion greedy
    decoding would reproduce. Sums over all ranks are divided once; every rank gets the same numbers. Without
    examples they are {}.
    """
    if not len(examples):
        return {}
    import torch

    engine, share = trainer.engine, trainer.share
    engine.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=engine.device)  # loss, right tokens, exact examples
    num_tokens = num_examples = 0
    block = share.world_size * share.accumulation * share.micro_batch_size
    # Not inference_mode: what ZeRO-3 gathers inside it could not be trained with afterwards.
    with uncompiled(engine.module), torch.no_grad():
        for start in range(0, len(examples), block):
            ids = examples[start : start + block]
            # Every rank makes the same number of forward passes: under ZeRO-3 each is a collective.
            for is_empty, batch in trainer.batches(dataset, ids):
                logits_KV, labels_K, example_K = forward_trained(engine, batch)
                right_K = logits_KV.argmax(dim=-1) == labels_K
                wrong_per_example = sums.new_zeros(batch.num_examples).index_add_(0, example_K, (~right_K).double())
                if not is_empty:
                    found = (loss_sum(logits_KV, labels_K), right_K.sum(), (wrong_per_example == 0).sum())
                    sums += torch.stack([number.double() for number in found])
                    num_tokens += len(labels_K)
                    num_examples += batch.num_examples
    total = torch.tensor([*sums.tolist(), num_tokens, num_examples], dtype=torch.float64)  # on the CPU: gloo
    torch.distributed.all_reduce(total)
    loss, num_right, num_exact, num_tokens, num_examples = total.tolist()
    return {
        HELD_OUT_LOSS: loss / num_tokens,
        "eval/token_accuracy": num_right / num_tokens,
        EXACT_COMPLETIONS: num_exact / num_examples,
    }
