"""Prompts: their bytes, that different positions never look alike, and which prompts start a game."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snake_dist.errors import InputError
from snake_dist.game.board import MODES, Cell, End, State
from snake_dist.game.rules import legal_moves, new_game, random_below, step
from snake_dist.styles.catalog import PROMPT_STYLES, STYLES, prompt_style, read_prompt, render_prompt
from snake_dist.styles.style import Shown

CLASSIC = State(8, "classic", ((2, 0), (3, 0), (4, 0), (4, 1)), (0, 7), frozenset(), rng=1, score=3)
WRAP = replace(CLASSIC, mode="wrap")
OBSTACLES = replace(CLASSIC, mode="obstacles", obstacles=frozenset({(7, 5), (1, 6)}))

SENTENCE = """\
You are playing Snake on a 8x8 grid. The coordinate system is (0,0) at bottom-left to (7,7) at top-right. \
Movement: UP=y+1, DOWN=y-1, RIGHT=x+1, LEFT=x-1.

Current game state:
- Snake head position: (2, 0)
- Apple position: (0, 7)
- Snake body positions: [[3, 0], [4, 0], [4, 1]]
- Snake length: 4

What is the best move to make? Consider:
1. Path to the apple
2. Avoiding collisions with walls and snake body
3. Maximizing score and survival

Choose from: UP, DOWN, LEFT, RIGHT"""

SHORT = """\
Snake on 8x8 grid.
Head: [2, 0], Apple: [0, 7], Length: 4.
Choose next move (UP, DOWN, LEFT, RIGHT):"""

BOARD = """\
Snake on 8x8 grid.
Head: [2, 0], Apple: [0, 7], Length: 4.
Board:
A . . . . . . .
. . . . . . . .
. . . . . . . .
. . . . . . . .
. . . . . . . .
. . . . . . . .
. . . . S . . .
. . H S S . . .
Choose next move (UP, DOWN, LEFT, RIGHT):"""


def test_classic_prompts_have_the_bytes_of_the_v004_data() -> None:
    assert render_prompt(CLASSIC, "sentence") == SENTENCE
    assert render_prompt(CLASSIC, "short") == SHORT
    assert render_prompt(CLASSIC, "board") == BOARD
    assert "- Snake body positions: []\n- Snake length: 1\n" in render_prompt(new_game(10, 0), "sentence")


def test_other_modes_are_named() -> None:
    for style, classic in (("sentence", SENTENCE), ("short", SHORT), ("board", BOARD)):
        wrap, obstacles = render_prompt(WRAP, style), render_prompt(OBSTACLES, style)
        assert wrap.replace("Mode: wrap (edges connect).\n", "", 1) == classic
        assert "\nMode: obstacles.\n" in obstacles
    assert "- Obstacle positions: [[1, 6], [7, 5]]\n" in render_prompt(OBSTACLES, "sentence")
    assert "\nObstacles: [[1, 6], [7, 5]]\n" in render_prompt(OBSTACLES, "short")
    drawn = render_prompt(OBSTACLES, "board").split("Board:\n")[1].splitlines()
    assert (drawn[1], drawn[2], sum(row.count("#") for row in drawn)) == (". # . . . . . .", ". . . . . . . #", 2)


def test_compact_prompts() -> None:
    state = State(10, "classic", ((3, 6), (4, 6), (5, 6), (6, 6)), (9, 6), frozenset(), rng=1)
    assert render_prompt(state, "compact") == "head 36 apple 96 body 46-56-66"
    assert render_prompt(replace(state, body=((3, 6),)), "compact") == "head 36 apple 96 body -"
    assert render_prompt(replace(state, mode="wrap"), "compact") == "wrap head 36 apple 96 body 46-56-66"
    blocked = replace(state, mode="obstacles", obstacles=frozenset({(1, 5), (1, 2)}))
    assert render_prompt(blocked, "compact") == "obstacles head 36 apple 96 body 46-56-66 blocks 12-15"
    assert render_prompt(WRAP, "compact") == "grid 8 wrap head 20 apple 07 body 30-40-41"
    wide = replace(state, grid_size=11)
    assert render_prompt(wide, "cycle") == "grid 11 head 0306 apple 0906 tail 0606 length 4"
    assert render_prompt(state, "cycle") == "head 36 apple 96 tail 66 length 4"
    assert {render_prompt(state, style) for style in ("move", "facts", "path")} == {render_prompt(state, "compact")}
    assert render_prompt(wide, "compact") == "grid 11 head 0306 apple 0906 body 0406-0506-0606"


def test_turned_prompts() -> None:
    state = State(4, "classic", ((2, 1), (3, 1), (3, 2)), (0, 0), frozenset(), rng=1)
    assert render_prompt(state, "turned") == "grid 4 turn 1 snake f e i apple d"
    wide = State(10, "wrap", ((3, 6), (4, 6)), (9, 6), frozenset(), rng=1)
    assert render_prompt(wide, "turned") == "wrap grid 10 turn 6 snake 33 34 apple 39"
    blocked = replace(state, mode="obstacles", obstacles=frozenset({(3, 0), (1, 2)}))
    assert render_prompt(blocked, "turned") == "obstacles grid 4 turn 1 snake f e i apple d blocks a k"


def test_ways_prompts() -> None:
    state = State(4, "classic", ((2, 1), (2, 2), (1, 2)), (0, 0), frozenset(), rng=1)
    assert render_prompt(state, "ways") == "grid 4 head 21 apple 00 length 3 to 00 ways 21.11L2101L1100D01"
    against = render_prompt(replace(state, body=state.body[::-1]), "ways")
    assert against == "grid 4 head 12 apple 00 length 3 to 00 ways 12.11D1202L1210D1101D0200L10"
    blocked = replace(state, mode="obstacles", obstacles=frozenset({(0, 1)}))
    assert render_prompt(blocked, "ways") == "grid 4 obstacles head 21 apple 00 length 3 to 20 ways 21.20D21"
    large = State(12, "classic", ((10, 9), (9, 9)), (11, 11), frozenset(), rng=1)
    prompt = "grid 12 head 1009 apple 1111 length 2 to ~~ ways &9.&&U&9~9R&9&~U&&~&U~9~~R&~"
    assert render_prompt(large, "ways") == prompt
    assert read_prompt(prompt) is not None
    larger = render_prompt(replace(large, grid_size=17), "ways")
    assert larger.startswith("grid 17 head 1009 apple 1111 length 2 to 1111 ways 1009.1010U1009")
    assert read_prompt(larger) is not None
    assert read_prompt(f"head 36 apple 62 length 3 to 62 ways 36.{'46R36' * 98}x") is None  # at once, not in 3^97 tries


def test_unknown_style_and_full_board_are_refused() -> None:
    with pytest.raises(InputError, match=r"'prose'.*sentence, board, short, compact"):
        render_prompt(CLASSIC, "prose")
    for style in PROMPT_STYLES:
        with pytest.raises(ValueError, match="full board"):
            render_prompt(replace(CLASSIC, apple=None, end=End.BOARD_FULL), style)


def visible(state: State) -> tuple[int, str, tuple[Cell, ...], Cell | None, frozenset[Cell]]:
    return state.grid_size, state.mode, state.body, state.apple, state.obstacles


def read_compact(prompt: str) -> tuple[int, str, tuple[Cell, ...], Cell, frozenset[Cell]]:
    """An independent reader: what one prompt shows can be read in one way only."""
    words = prompt.split()
    size = int(words[1]) if words[0] == "grid" else 10
    mode = next((mode for mode in MODES if mode in words), "classic")

    def cells(name: str) -> tuple[Cell, ...]:
        digits = words[words.index(name) + 1].strip("-")
        width = len(str(size - 1))
        return tuple((int(c[:width]), int(c[width:])) for c in digits.split("-")) if digits else ()

    blocks = frozenset(cells("blocks")) if "blocks" in words else frozenset()
    return size, mode, cells("head") + cells("body"), cells("apple")[0], blocks


def read_sentence(prompt: str) -> tuple[int, str, tuple[Cell, ...], Cell, frozenset[Cell]]:
    def cells(label: str) -> tuple[Cell, ...]:
        found = re.search(rf"^- {label}: (.*)$", prompt, re.MULTILINE)
        text = found[1].replace("(", "[[").replace(")", "]]") if found else "[]"
        return tuple((x, y) for x, y in json.loads(text))

    size, mode = re.findall(r"(\d+)x\d+ grid", prompt), re.findall(r"^Mode: (\w+)", prompt, re.MULTILINE)
    body = cells("Snake head position") + cells("Snake body positions")
    apple, blocks = cells("Apple position")[0], cells("Obstacle positions")
    return int(size[0]), (mode or ["classic"])[0], body, apple, frozenset(blocks)


@settings(max_examples=60)
@given(st.integers(4, 14), st.integers(0, 2**63), st.sampled_from(MODES), st.integers(1, 120))
def test_different_positions_have_different_prompts(grid_size: int, seed: int, mode: str, num_moves: int) -> None:
    state, rng = new_game(grid_size, seed, mode), seed
    while state.end is None and num_moves:
        assert read_compact(render_prompt(state, "compact")) == visible(state)
        assert read_sentence(render_prompt(state, "sentence")) == visible(state)
        rng, index = random_below(rng, len(legal_moves(state)))
        state, num_moves = step(state, legal_moves(state)[index]), num_moves - 1


@pytest.mark.parametrize("style", PROMPT_STYLES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grid_size", [4, 8, 10, 12])
def test_prompts_of_every_style_are_read(style: str, mode: str, grid_size: int) -> None:
    state = new_game(grid_size, 7, mode)
    assert read_prompt(render_prompt(state, style)) == (style, Shown(grid_size, mode, starts_game=True))
    assert read_prompt(render_prompt(state, style) + "\n") == (style, Shown(grid_size, mode, starts_game=True))
    moved = step(state, next(move for move, there in state.neighbors[state.head] if there != state.apple))
    assert read_prompt(render_prompt(moved, style)) == (style, Shown(grid_size, mode, starts_game=False))
    grown = replace(state, body=(state.head, moved.head))
    assert read_prompt(render_prompt(grown, style)) == (style, Shown(grid_size, mode, starts_game=False))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "head",
        "head 3 apple",
        "head 5 apple 9 body -",
        f"head {'5' * 10_000} apple 96 body -",
        f"Snake on 10x10 grid.\nHead: [5, 5], Apple: [1, 1], Length: {'1' * 10_000}.\n",
        "a tale about a snake on a 10x10 grid. Head: [5, 5], Apple: [1, 1], Length: 1.",
        "Snake on 10x8 grid.\nHead: [5, 5], Apple: [1, 1], Length: 1.\n",
        "head 55 apple 96 body - and more",
        "You are playing Snake on a 10x10 grid.\n- Snake head position: 5, 5\n- Snake length: 1\n",
    ],
)
def test_no_style_reads_unknown_text(prompt: str) -> None:
    assert read_prompt(prompt) is None


def test_styles_with_one_prompt_are_read_as_the_first_of_them() -> None:
    for style in STYLES:
        shown = read_prompt(render_prompt(CLASSIC, style))
        assert shown is not None
        assert shown[0] == prompt_style(style)
    assert [prompt_style(style) for style in ("move", "facts", "path", "cycle")] == ["compact"] * 3 + ["cycle"]
