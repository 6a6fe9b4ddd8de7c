from __future__ import annotations

import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Games, play_games
from snake_dist.evaluation.judging.game_log import replay
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.evaluation.report.animation import COLOURS, MAX_FRAMES, check_gif_path, write_gif
from snake_dist.heuristics.policies import POLICIES


@pytest.mark.parametrize(
    ("policy", "mode"), [("greedy", "obstacles"), ("hamiltonian", "wrap"), ("random-legal", "classic")]
)
def test_frames_show_the_game(tmp_path, policy, mode):
    from PIL import Image

    (game,) = play_games(HeuristicPlayer(POLICIES[policy]), Games(6, mode, [4], 0))
    write_gif(tmp_path / "game.gif", game, policy)
    states = list(replay(6, mode, 4, game.moves))
    with Image.open(tmp_path / "game.gif") as gif:
        assert gif.n_frames <= min(len(states), MAX_FRAMES + 1)
        for frame, state in [(0, states[0]), (gif.n_frames - 1, states[-1])]:
            gif.seek(frame)
            image = gif.convert("RGB")
            dead = frame and game.end != "board_full"
            assert near(image.getpixel(centre(state.head)), COLOURS["dead" if dead else "head"])
            if state.apple:
                assert near(image.getpixel(centre(state.apple)), COLOURS["apple"])
            assert all(near(image.getpixel(centre(cell)), COLOURS["wall"]) for cell in state.obstacles)


def centre(cell):
    return 1 + 40 * cell[0] + 20, 19 + 40 * (5 - cell[1]) + 20


def near(colour, expected):
    return all(abs(a - b) <= 24 for a, b in zip(colour, expected, strict=True))


@pytest.mark.parametrize(
    ("path", "message"), [("game.mp4", "ends in .gif"), ("/no/where/game.gif", "no directory /no")]
)
def test_a_bad_place_is_named(tmp_path, path, message):
    with pytest.raises(InputError, match=message):
        check_gif_path(tmp_path / path)
