"""What a run will need, from arithmetic alone: bytes per rank, bytes per collective, seconds per step."""
