"""Whoever answers positions with moves: models, heuristics, endpoints, people at the terminal."""
