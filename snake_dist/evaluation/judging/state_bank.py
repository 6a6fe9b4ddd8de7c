"""A fixed bank of unseen states, and the rates of a player on it.

Games show how far a player gets; the bank shows how good single moves are, at every snake length, on the same
states for everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypedDict

from snake_dist.evaluation.judging.episodes import game_seeds
from snake_dist.evaluation.judging.intervals import Rate, game_rate_interval, rate, rate_entry
from snake_dist.evaluation.players.protocol import Player
from snake_dist.game.board import State
from snake_dist.game.rules import legal_moves, new_game, random_below, step
from snake_dist.game.symmetry import NUM_SYMMETRIES, transform_state
from snake_dist.heuristics.policies import bfs_safe
from snake_dist.heuristics.search import begins_shortest_path, optimal_moves, safe_first_moves, tail_distances
from snake_dist.styles.catalog import check_claims
from snake_dist.styles.replies import parse_reply

STATES_PER_GAME = 8
"""One in each of 8 equal bands of snake length."""
MAX_LENGTH = 100
"""Longest snake in the bank: longer ones take minutes a game on large boards."""
RANDOM_MOVE_SHARE = 0.1
FILL_EDGES = (0, 10, 25, 50, 100)
"""Per cent of the board covered by the snake: the bounds of the buckets that scores are reported in."""

_GAMES_PER_STATE = 4
_STREAM = 0x9FB21C651E98DF25  # keeps these draws apart from the apples'


def build_bank(
    grid_size: int,
    mode: str,
    num_states: int,
    range_name: str = "test",
    is_trained: Callable[[State], bool] = lambda _: False,
) -> list[State]:
    """Return up to `num_states` running positions, a function of the arguments alone.

    Each bfs-safe game on the seeds of the range gives one state in each of `STATES_PER_GAME` equal bands of snake
    length, as far as the game gets: so late positions are as frequent as early ones. Each state ends a side line of
    0 to 4 N - 1 moves, 10 % of them random legal ones: so the bank also has positions that no teacher reaches. Left
    out are states with `is_trained` true for any of their 8 symmetric images, and symmetric images of earlier
    states. Small boards may have fewer states.
    """
    bank: list[State] = []
    seen: set[State] = set()
    for seed in game_seeds(num_states * _GAMES_PER_STATE, range_name):
        for state in _game_states(grid_size, mode, seed):
            if len(bank) == num_states:
                return bank
            images = [_position(transform_state(state, k)) for k in range(NUM_SYMMETRIES)]
            if seen.isdisjoint(images) and not any(map(is_trained, images)):
                bank.append(state)
                seen.add(_position(state))
    return bank


class BankRates(TypedDict):
    """How single moves are, under their names in report.json; docs/metrics.md."""

    n: int
    optimal_set_rate: Rate
    optimal_choice_rate: Rate
    legal_move_rate: Rate
    format_valid_rate: Rate
    avoidable_fatal_rate: Rate
    tail_safe_fork_rate: Rate
    food_over_survival_rate: Rate
    claims_true_rate: Rate


class BankScores(BankRates):
    """The rates over the whole bank and by the share of the board that the snake covers."""

    by_fill: dict[str, BankRates]


def score_bank(player: Player, bank: Sequence[State]) -> BankScores:
    """Return rates over the bank's states (docs/metrics.md), overall and under `by_fill` for buckets of fill level.

    Most states come from different games, the others lie many apples apart: they count as independent.
    """
    replies = player.replies(bank)
    verdicts = [_verdict(state, reply) for state, reply in zip(bank, replies, strict=True)]
    by_fill = {
        f"{low}-{high}": _rates([verdict for verdict in verdicts if low < verdict.fill <= high])
        for low, high in pairwise(FILL_EDGES)
    }
    return {**_rates(verdicts), "by_fill": by_fill}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """How one reply is judged."""

    fill: float
    valid: bool
    legal: bool
    optimal: bool
    choice: bool
    """Whether the state has a legal move that is not optimal."""
    fork: bool
    """Whether some legal moves are tail-safe and others are not. After a tail-safe move the tail is in reach, at once
    or at the end of a shortest path to the apple that the move begins."""
    tail_safe: bool
    """Whether the reply's move is tail-safe."""
    temptation: bool
    """A fork where a move that is not tail-safe begins a shortest path to the apple."""
    food_first: bool
    """Whether the reply makes such a move."""
    claims: tuple[bool, ...]
    """For each claim of the reply: whether it is true."""


def _verdict(state: State, reply: str) -> _Verdict:
    move, legal, optimal = parse_reply(reply), legal_moves(state), optimal_moves(state)
    safe = {*tail_distances(state), *safe_first_moves(state)}
    fork = 0 < len(safe) < len(legal)
    tempting = {move for move in legal if move not in safe and begins_shortest_path(state, move)} if fork else set()
    return _Verdict(
        fill=100 * len(state.body) / (state.grid_size**2 - len(state.obstacles)),
        valid=move is not None,
        legal=move in legal,
        optimal=move in optimal,
        choice=len(optimal) < len(legal),
        fork=fork,
        tail_safe=move in safe,
        temptation=bool(tempting),
        food_first=move in tempting,
        claims=tuple(claim.true for claim in check_claims(state, reply)),
    )


def _rates(verdicts: Sequence[_Verdict]) -> BankRates:
    n, choices = len(verdicts), [verdict for verdict in verdicts if verdict.choice]
    forks, tempted = ([v for v in verdicts if v.fork], [v for v in verdicts if v.temptation])
    true, said = ([sum(v.claims) for v in verdicts if v.claims], [len(v.claims) for v in verdicts if v.claims])
    return {
        "n": n,
        "optimal_set_rate": rate(sum(verdict.optimal for verdict in verdicts), n),
        "optimal_choice_rate": rate(sum(verdict.optimal for verdict in choices), len(choices)),
        "legal_move_rate": rate(sum(verdict.legal for verdict in verdicts), n),
        "format_valid_rate": rate(sum(verdict.valid for verdict in verdicts), n),
        "avoidable_fatal_rate": rate(sum(verdict.valid and not verdict.legal for verdict in verdicts), n),
        "tail_safe_fork_rate": rate(sum(verdict.tail_safe for verdict in forks), len(forks)),
        "food_over_survival_rate": rate(sum(verdict.food_first for verdict in tempted), len(tempted)),
        "claims_true_rate": rate_entry(sum(true), sum(said), game_rate_interval(true, said)),
    }


def _game_states(grid_size: int, mode: str, seed: int) -> Iterator[State]:
    """Yield at most one state in each band of length, from one bfs-safe game."""
    longest = min(grid_size**2 - 2, MAX_LENGTH)
    rng = seed ^ _STREAM
    state = new_game(grid_size, seed, mode)
    for band in range(STATES_PER_GAME):
        low, high = (1 + (longest * i) // STATES_PER_GAME for i in (band, band + 1))
        rng, drawn = random_below(rng, high - low)
        while state.end is None and len(state.body) < low + drawn:
            state = step(state, bfs_safe(state))
        if state.end is not None:
            return
        rng, num_moves = random_below(rng, 4 * grid_size)
        yield _side_line(state, rng, num_moves)


def _side_line(state: State, rng: int, num_moves: int) -> State:
    """The state after `num_moves` moves, 10 % of them random, the others bfs-safe; the last running one."""
    for _ in range(num_moves):
        rng, per_mille = random_below(rng, 1000)
        moves = legal_moves(state)
        rng, index = random_below(rng, len(moves))
        after = step(state, moves[index] if per_mille < 1000 * RANDOM_MOVE_SHARE else bfs_safe(state))
        if after.end is not None:
            return state
        state = after
    return state


def _position(state: State) -> State:
    """The state with nothing but what a player is shown, for comparing."""
    return State(state.grid_size, state.mode, state.body, state.apple, state.obstacles, rng=0)
