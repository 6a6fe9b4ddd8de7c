"""One game as an animated GIF, for a README or a W&B panel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Episode
from snake_dist.evaluation.judging.game_log import replay
from snake_dist.game.board import Cell, State

if TYPE_CHECKING:
    from PIL import Image

MAX_FRAMES = 400
"""Of a longer game, moves are left out evenly."""
FRAME_MS, LAST_FRAME_MS = 80, 1500
BOARD_PIXELS = 240
COLOURS = {
    "field": (238, 241, 234),
    "wall": (92, 107, 116),
    "snake": (20, 113, 63),
    "head": (10, 64, 35),
    "apple": (211, 54, 43),
    "dead": (179, 38, 30),
    "text": (27, 31, 29),
}


def check_gif_path(path: Path) -> None:
    """Raise InputError unless a GIF can be written there."""
    if path.suffix.lower() != ".gif":
        raise InputError(f"--gif {path}: expected a name that ends in .gif")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--gif {path}: no directory {path.absolute().parent}")


def write_gif(path: Path, episode: Episode, title: str) -> None:
    """Write the whole game, at most `MAX_FRAMES` of its positions; the last one stays longest, and the GIF loops."""
    from PIL import Image

    states = list(replay(episode.grid_size, episode.mode, episode.seed, episode.moves))
    stride = -(-len(states) // MAX_FRAMES)
    shown = [*states[:-1:stride], states[-1]]
    is_dead = episode.end not in ("board_full", "step_cap")
    frames = [_frame(state, title, dead=is_dead and state is states[-1]) for state in shown]
    times = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    # One palette for all frames: the colours, and two between text and field for the edges of letters.
    between = [
        tuple((i * a + (3 - i) * b) // 3 for a, b in zip(COLOURS["text"], COLOURS["field"], strict=True))
        for i in (1, 2)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in (*COLOURS.values(), *between) for channel in colour])
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    # disposal=1: a frame is drawn over the last one, so that only what changed is stored.
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, disposal=1)


def _frame(state: State, title: str, *, dead: bool) -> Image.Image:
    from PIL import Image, ImageDraw

    size = max(BOARD_PIXELS // state.grid_size, 4)
    side, caption = size * state.grid_size, 18
    image = Image.new("RGB", (side + 2, side + caption + 2), COLOURS["field"])
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, caption, side + 1, side + caption + 1), outline=COLOURS["wall"])
    draw.text((2, 3), f"{title}: {state.score} apples, move {state.steps}", fill=COLOURS["text"])

    def box(cell: Cell, inset: int) -> tuple[int, int, int, int]:
        left, top = 1 + size * cell[0], caption + 1 + size * (state.grid_size - 1 - cell[1])
        return left + inset, top + inset, left + size - 1 - inset, top + size - 1 - inset

    for cell in state.obstacles:
        draw.rectangle(box(cell, 0), fill=COLOURS["wall"])
    if state.apple is not None:
        draw.ellipse(box(state.apple, size // 6), fill=COLOURS["apple"])
    for i, cell in reversed(list(enumerate(state.body))):
        colour = "dead" if dead else "snake" if i else "head"
        draw.rectangle(box(cell, size // 12 if i else 0), fill=COLOURS[colour])
    return image
