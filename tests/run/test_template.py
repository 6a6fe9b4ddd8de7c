"""A run with a template: the same text in training and in play, recorded, shown, and refused if it changes."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from snake_dist.checkpoint.adapter_base import describe_adapter
from snake_dist.errors import InputError
from snake_dist.evaluation.players.loading import load_model_players
from snake_dist.model import base
from tests.support.ranks import run_on_ranks
from tests.support.runs import tiny_config, tiny_data
from tests.support.tiny_models import add_chat_template, tiny_llama


def chat_llama(directory: Path) -> Path:
    """The tiny model with embeddings for the chat template's tokens."""
    return tiny_llama(directory, vocab_size=259)


def finetune_each(configs: list[Any]) -> tuple[list[Any], str]:
    """On a rank: the summary of each run, or why it was refused, and what they printed."""
    from snake_dist.run.finetune import finetune

    outcomes: list[Any] = []
    with redirect_stdout(io.StringIO()) as out:
        for config in configs:
            try:
                outcomes.append(finetune(config))
            except InputError as problem:
                outcomes.append(str(problem))
    return outcomes, out.getvalue()


def chats(path: Path) -> Path:
    """Conversations of one to three turns."""
    lines = []
    for i in range(6):
        turns = [{"role": "system", "content": "You play Snake, and you say why."}]
        for turn in range(1 + i % 3):
            turns.append({"role": "user", "content": f"question {i}{turn}"})
            turns.append({"role": "assistant", "content": "answer " * (turn + 1) + str(i)})
        lines.append({"messages": turns, "source": "a test"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def transformers_loss(directory: Path, data: Path) -> float:
    """The mean loss over all that the assistant says, by transformers' own rendering, mask and loss."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    total, number = 0.0, 0
    for line in data.read_text().splitlines():
        shown = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        labels = shown["input_ids"].where(torch.as_tensor(shown["assistant_masks"]).view(1, -1) == 1, -100)
        with torch.no_grad():
            loss = model(input_ids=shown["input_ids"], labels=labels).loss
        said = int((labels != -100).sum())
        total, number = total + float(loss) * said, number + said
    return total / number


def test_a_template_is_shared_recorded_shown_and_part_of_the_run(tmp_path: Path) -> None:
    llama, data = chat_llama(tmp_path / "llama"), tiny_data(tmp_path / "data")
    add_chat_template(llama)
    other = chat_llama(tmp_path / "other")
    add_chat_template(other, (llama / "chat_template.jinja").read_text() + "{# #}")
    run, talk = tmp_path / "run", chats(tmp_path / "talk.jsonl")
    flags: dict[str, Any] = {"template": "chat", "max_steps": 2, "save_every": 1, "play_games": 1, "eval_games": 1}
    stopped = tiny_config(llama, data, run, **flags)
    configs = [
        stopped,
        tiny_config(llama, data, tmp_path / "none", template="chat", base_model=tiny_llama(tmp_path / "plain")),
        *(
            tiny_config(llama, data, tmp_path / "again", **flags | changed, resume=run / "checkpoints/step-00000001")
            for changed in ({"template": "instruction"}, {"base_model": other})
        ),
        tiny_config(
            llama, talk, tmp_path / "talk", template="chat", max_steps=1, global_batch_size=6, held_out_share=0
        ),
    ]
    (summary, no_template, changed_name, changed_text, talked), out = run_on_ranks(finetune_each, 1, configs)[0]
    assert "no chat template: choose --template plain or instruction" in no_template
    assert "--template was chat, now instruction" in changed_name
    assert "chat template was " in changed_text
    assert "prompts of style compact, chat template" in out
    assert "BFS-SAFE_dataset.jsonl: prompt/completion, " in out
    assert "talk.jsonl: messages, 6 usable lines" in out
    assert talked["data"]["forms"] == [("messages", 6)]
    assert talked["training"]["first_loss"] == pytest.approx(transformers_loss(llama, talk), abs=1e-5)
    shown = out[out.index("the first example, what is trained in [[ ]]:") :]
    assert shown.splitlines()[1].startswith("    <|im_start|>user")
    assert "<|im_start|>assistant\n    [[U" in shown
    assert "<|im_end|>]]\n" in shown

    adapter = Path(summary["adapter_dir"])
    assert json.loads((adapter / "adapter_metadata.json").read_text())["template"] == "chat"
    players = load_model_players(describe_adapter(adapter), base.own_device())
    assert {player.template for player in players.values()} == {"chat"}
    assert "<|im_start|>" in players["base"].tokenizer.get_chat_template()
