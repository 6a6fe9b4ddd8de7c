"""Entrants from the words of --player, with tiny adapters."""

from __future__ import annotations

import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.players.entrants import ladder_entrants
from tests.support.entrants import find
from tests.support.tiny_models import tiny_adapter


def test_words_of_a_comparison(adapters):
    entrants, board = find("bfs", "adapter", *adapters, "greedy", "bfs")
    assert [(entrant.name, entrant.base) for entrant in entrants] == [
        ("base", None), ("calm", "base"), ("wild", "base"), ("bfs", None), ("greedy", None),
    ]  # fmt: skip
    assert board == (5, "classic")
    assert entrants[1].identity != entrants[2].identity
    assert [entrant.name for entrant in find("adapter", adapters[0])[0]] == ["base", "adapter"]
    assert find("bfs")[1] is None
    assert [entrant.name for entrant in ladder_entrants(entrants)] == ["random-legal", "bfs-safe", "hamiltonian"]


def test_adapters_of_one_name_keep_their_paths(tmp_path, llama_dir):
    paths = [tiny_adapter(tmp_path / part / "same", llama_dir) for part in ("a", "b")]
    assert [entrant.name for entrant in find("adapter", *paths)[0]] == ["base", *map(str, paths)]


BAD = {
    "nobody": (["nobody"], "nobody"),
    "no directory": (["adapter", "bfs"], "directories"),
    "missing": (["adapter", "/no/such"], "/no/such"),
}


@pytest.mark.parametrize("name", BAD)
def test_unknown_players_are_named(name):
    words, message = BAD[name]
    with pytest.raises(InputError, match=message):
        find(*words)
