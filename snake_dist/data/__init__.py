"""Snake data: written by heuristics, read from JSONL, tokenized once, packed and dealt to ranks."""
