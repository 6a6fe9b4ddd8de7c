"""Players that need no training: search over the board, and policies built on it."""
