"""Which rank this process is, and what all ranks agree on. Imports no other room."""
