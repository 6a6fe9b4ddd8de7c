"""One loop over one DeepSpeed engine. Imports data and checkpoint; the launcher hands it plain callables."""
