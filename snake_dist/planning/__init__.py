"""A plan for a run by arithmetic alone: bytes per rank, bytes per collective, seconds per step."""
