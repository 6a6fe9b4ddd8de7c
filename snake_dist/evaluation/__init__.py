"""Judging players by play: players, episodes, the bank of unseen states, intervals, the report."""
