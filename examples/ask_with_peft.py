"""Open a saved adapter without this package's players: python examples/ask_with_peft.py ADAPTER_DIRECTORY"""

import json
import sys
from pathlib import Path

from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

import snake_dist as sd
from snake_dist.styles.catalog import render_prompt

directory = Path(sys.argv[1])
style = json.loads((directory / "adapter_metadata.json").read_text())["style"]
model, tokenizer = AutoPeftModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
prompt = tokenizer(render_prompt(sd.new_game(grid_size=6, seed=1), style), return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.eos_token_id)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
