"""Stages that build on each other: curriculum, on-policy correction, results."""
