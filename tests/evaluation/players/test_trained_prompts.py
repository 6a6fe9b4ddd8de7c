"""The training prompts that are kept with an adapter."""

from __future__ import annotations

import numpy as np

from snake_dist.evaluation.players.trained_prompts import with_earlier_hashes
from tests.support.tiny_models import tiny_adapter


def test_what_an_adapter_goes_on_from_was_trained_on_counts(tmp_path, llama_dir):
    """None where the earlier adapter did not keep it: then nobody knows."""
    earlier, unknown = tmp_path / "earlier", tmp_path / "unknown"
    tiny_adapter(earlier, llama_dir, prompt_hashes=np.array([5, 3], np.uint64))
    tiny_adapter(unknown, llama_dir)
    for given, expected in ((None, [4, 5]), (earlier, [3, 4, 5]), (unknown, None)):
        found = with_earlier_hashes(np.array([4, 5], np.uint64), given and str(given))
        assert (found is None) if expected is None else (found.tolist() == expected)
