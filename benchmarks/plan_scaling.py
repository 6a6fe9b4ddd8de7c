"""The step-time model for Llama shapes on 8, 64 and 512 GPUs, as docs/scaling.md shows it. Prints a Markdown table.

python benchmarks/plan_scaling.py
"""

from __future__ import annotations

from transformers import LlamaConfig

from snake_dist.model.adapters import AdapterConfig
from snake_dist.planning.communication import Links
from snake_dist.planning.model_sizes import sizes_of
from snake_dist.planning.shapes import MicroBatch, Setup
from snake_dist.planning.step_time import Speed, step_time

SHARED = {"vocab_size": 128256, "num_key_value_heads": 8}
LLAMAS = {
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
# name -> (ZeRO stage, ranks that share hpZ's second shards, NF4)
WAYS = {
    "8B": {"ZeRO 2": (2, 0, False), "ZeRO 3": (3, 0, False), "ZeRO 3, hpZ": (3, 8, False)},
    "70B": {"NF4, ZeRO 2": (2, 0, True), "ZeRO 3": (3, 0, False), "ZeRO 3, hpZ": (3, 8, False)},
}


def main() -> None:
    links = Links(ranks_per_node=8, inside_bytes_per_s=300e9, between_bytes_per_s=25e9, latency_s=20e-6)
    speed = Speed(flops=312e12, efficiency=0.35, links=links)
    batch = MicroBatch(4, 512, 0.4)
    print("| model | way | GPUs | compute | gathers | reduction | saving | step | efficiency | not overlapped |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, ways in WAYS.items():
        model = sizes_of(LlamaConfig(**LLAMAS[name], **SHARED), AdapterConfig())
        for way, (stage, hpz_ranks, nf4) in ways.items():
            for ranks in (8, 64, 512):
                setup = Setup(
                    stage=stage,
                    num_ranks=ranks,
                    nf4=nf4,
                    gradient_checkpointing=True,
                    hpz_ranks=hpz_ranks if ranks > links.ranks_per_node else 0,
                    reduce_bucket=model.num_trainable,
                )
                took = step_time(model, setup, batch, 1, speed, save_every=100)
                print(
                    f"| {name} | {way} | {ranks} | {took.compute:.2f} | {took.gathers:.2f} | {took.reduction:.3f} "
                    f"| {took.checkpoint:.3f} | {took.total:.2f} | {took.compute / took.total:.0%} "
                    f"| {took.compute / took.not_overlapped:.0%} |"
                )


if __name__ == "__main__":
    main()
