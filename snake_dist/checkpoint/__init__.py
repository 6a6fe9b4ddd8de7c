"""Adapters and checkpoints on disk: written whole or not at all, proven by reading them back."""
