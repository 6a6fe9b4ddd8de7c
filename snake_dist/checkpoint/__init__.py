"""Adapters and checkpoints on disk: gathered from any ZeRO stage, published whole or not at all, proven by reading."""
