"""The verbs of `snake-dist` and of launcher/: each parses its flags and opens one room."""
