"""Play whole games side by side; each becomes an episode, which is plain data.

Replies are parsed strictly. A reply that names no move ends its game as `invalid_reply`, an illegal move ends it
by the rules; neither is repaired or asked again. The moves of a reply that names several are made one after the
other, until they are used up or one eats an apple. The rest are then dropped, since the reply could not know of the
new apple, and the player is asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from snake_dist.errors import InputError
from snake_dist.evaluation.players.protocol import Answer, Player, converse
from snake_dist.game.board import Cell, End, Move, State
from snake_dist.game.rules import SEED_RANGES, end_game, fatal_reason, new_game, step
from snake_dist.game.symmetry import inverse, transform_move, transform_state
from snake_dist.styles.catalog import check_claims
from snake_dist.styles.replies import parse_moves
from snake_dist.styles.style import Claim


@dataclass(frozen=True)
class Games:
    """The games of a comparison: the same for every player."""

    grid_size: int
    mode: str
    seeds: Sequence[int]
    """One game for each."""
    max_steps: int
    """A game is stopped after this many moves; 0: no limit."""
    symmetry: int = 0
    """How the board is turned for the players (`game.symmetry`); their moves are turned back."""

    def settings(self) -> dict[str, Any]:
        """Return what report.json says of the games."""
        return {
            "grid_size": self.grid_size,
            "mode": self.mode,
            "max_steps": self.max_steps,
            "symmetry": self.symmetry,
            "first_seed": self.seeds[0],
            "games": len(self.seeds),
        }


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished game. Grid size, mode, seed and moves replay it; `game_log` writes it as JSON."""

    grid_size: int
    mode: str
    seed: int
    score: int
    """Apples eaten."""
    steps: int
    """Moves made, a fatal one included."""
    end: str
    """An `End` value."""
    num_replies: int
    """Replies of the player."""
    num_valid_format: int
    """Replies that named a move."""
    num_legal: int
    """Legal moves made."""
    moves: tuple[str, ...]
    """Names of the moves, a fatal one included."""
    obstacles: tuple[Cell, ...] = ()
    """Blocked cells, sorted."""
    apples: tuple[Cell, ...] = ()
    """Every apple in the order it appeared; the last one was eaten only in a won game."""
    eaten_at: tuple[int, ...] = ()
    """For each apple eaten: moves made until then, the eating one included."""
    replies: tuple[str, ...] = ()
    """Their texts, unchanged."""
    moves_made: tuple[int, ...] = ()
    """For each reply: how many of its moves were made; 0 for a reply that named none."""
    claims: tuple[tuple[Claim, ...], ...] = ()
    """For each reply: its claims about the board, and whether each is true."""
    prompts: tuple[str, ...] | None = None
    """For each reply: its prompt; None for a player that looks at the board itself."""
    tokens: tuple[int, ...] | None = None
    """Tokens of each reply; None for a player without any."""
    ms: tuple[float, ...] = field(default=(), compare=False)
    """For each reply: milliseconds since the replies before it, divided by the number of replies that came together."""

    @property
    def num_decisions(self) -> int:
        """Moves made plus replies that named none: the denominator of rates and costs per move."""
        return len(self.moves) + self.num_replies - self.num_valid_format

    @property
    def asked_after(self) -> tuple[int, ...]:
        """For each reply: moves made before it."""
        return (0, *accumulate(self.moves_made))[: self.num_replies]


def game_seeds(n: int, range_name: str = "test", first: int = 0) -> range:
    """Return `n` seeds of a published range, from its `first` on. Raises InputError if the range has too few."""
    if range_name not in SEED_RANGES:
        raise InputError(f"unknown seed range {range_name!r}: choose from {', '.join(SEED_RANGES)}")
    seeds = SEED_RANGES[range_name]
    if first + n > len(seeds):
        raise InputError(f"{n} games from game {first} on: the seed range {range_name!r} has {len(seeds)} seeds")
    return seeds[first : first + n]


def play_games(
    player: Player,
    games: Games,
    batch_size: int | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    on_finished: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play the games, up to `batch_size` at once (None: all); a finished game makes room for the next seed.

    Episodes come in the order of the seeds, and an episode depends on its seed and the player alone: so for a
    player whose replies do not depend on their batch (see `LanguageModelPlayer` for what floating point can change),
    `batch_size` is a matter of speed, and the seeds may be spread over processes and merged by seed.
    A game still alive after `max_steps` moves ends as step_cap. `on_progress(games finished, moves so far)` is called
    when answers have come, `on_finished(episode)` when a game has ended. Raises InputError for an impossible size or
    mode.
    """
    waiting = enumerate(_Game(games, seed, new_game(games.grid_size, seed, games.mode)) for seed in games.seeds)
    begun: list[_Game] = []
    running: dict[int, _Game] = {}
    num_moves = 0
    with converse(player) as asked:
        while True:
            while len(running) < (batch_size or len(games.seeds)) and (following := next(waiting, None)) is not None:
                number, game = following
                begun.append(game)
                running[number] = game
                asked.ask(number, game.seen())
            if not running:
                return [game.episode() for game in begun]
            started = time.perf_counter()
            answers = asked.answered()
            ms = 1000 * (time.perf_counter() - started) / len(answers)
            for number, answer in answers:
                game = running[number]
                num_moves += game.answer(answer, ms)
                if game.state.end is None:
                    asked.ask(number, game.seen())
                    continue
                del running[number]
                if on_finished is not None:
                    on_finished(game.episode())
            if on_progress is not None:
                on_progress(len(begun) - len(running), num_moves)


@dataclass(slots=True)
class _Game:
    """A game under way: its state and its record so far."""

    games: Games
    seed: int
    state: State
    num_legal: int = 0
    moves: list[Move] = field(default_factory=list)
    apples: list[Cell] = field(default_factory=list)
    eaten_at: list[int] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    claims: list[tuple[Claim, ...]] = field(default_factory=list)
    moves_made: list[int] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.state.apple is not None:
            self.apples.append(self.state.apple)

    def seen(self) -> State:
        """Return the board as it is shown to the player."""
        return transform_state(self.state, self.games.symmetry) if self.games.symmetry else self.state

    def answer(self, answer: Answer, ms: float) -> int:
        """Make the moves of an answer, as far as they go; returns how many were made."""
        self.answers.append(answer)
        self.claims.append(check_claims(self.seen(), answer.text))
        self.ms.append(round(ms, 3))
        moves, num_before, score = parse_moves(answer.text), len(self.moves), self.state.score
        if moves is None:
            self.state = end_game(self.state, End.INVALID_REPLY)
        for move in moves or ():
            self._make(transform_move(move, inverse(self.games.symmetry)))
            if self.state.end is not None or self.state.score > score:
                break
        self.moves_made.append(len(self.moves) - num_before)
        return self.moves_made[-1]

    def _make(self, move: Move) -> None:
        self.moves.append(move)
        self.num_legal += fatal_reason(self.state, move) is None
        score = self.state.score
        self.state = step(self.state, move)
        if self.state.score > score:
            self.eaten_at.append(self.state.steps)
            if self.state.apple is not None:
                self.apples.append(self.state.apple)
        if self.state.end is None and 0 < self.games.max_steps <= self.state.steps:
            self.state = end_game(self.state, End.STEP_CAP)

    def episode(self) -> Episode:
        assert self.state.end is not None
        prompts = tuple(answer.prompt for answer in self.answers if answer.prompt is not None)
        tokens = tuple(answer.num_tokens for answer in self.answers if answer.num_tokens is not None)
        return Episode(
            grid_size=self.state.grid_size,
            mode=self.state.mode,
            seed=self.seed,
            score=self.state.score,
            steps=self.state.steps,
            end=self.state.end.value,
            num_replies=len(self.answers),
            num_valid_format=sum(made > 0 for made in self.moves_made),
            num_legal=self.num_legal,
            moves=tuple(move.value for move in self.moves),
            obstacles=tuple(sorted(self.state.obstacles)),
            apples=tuple(self.apples),
            eaten_at=tuple(self.eaten_at),
            replies=tuple(answer.text for answer in self.answers),
            moves_made=tuple(self.moves_made),
            claims=tuple(self.claims),
            prompts=prompts or None,
            tokens=tokens or None,
            ms=tuple(self.ms),
        )
