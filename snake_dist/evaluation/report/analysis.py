"""Tables from game logs: where and why games were lost, and which claims of the player were false."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Episode
from snake_dist.evaluation.judging.game_log import Header, read_log, replay
from snake_dist.evaluation.judging.intervals import wilson_interval, with_interval
from snake_dist.evaluation.judging.metrics import LENGTH_BUCKETS, LENGTH_EDGES, length_bucket
from snake_dist.evaluation.players.trained_prompts import TrainedPrompts, adapter_prompts
from snake_dist.evaluation.report.numbers import markdown_table
from snake_dist.game.board import End, State
from snake_dist.game.symmetry import transform_state
from snake_dist.heuristics.policies import POLICIES, check_policy
from snake_dist.styles.replies import parse_moves
from snake_dist.styles.style import Claim

LOSSES = tuple(end.value for end in End if end not in (End.BOARD_FULL, End.STEP_CAP))
"""Ends that are losses."""


@dataclass(frozen=True)
class Analysis:
    """Show where and why logged games were lost, which claims were false, and where a teacher disagrees."""

    games: tuple[Path, ...]
    """Game logs, counted together: `games/NAME.jsonl` of a report."""
    policy: str | None = None
    """Compare the player's moves with those of this heuristic."""
    adapter: Path | None = None
    """With --policy: the adapter that played; replies to its training prompts are counted apart from the others."""


@dataclass
class _Bucket:
    """Counts over the time in which the snake had a length of this range."""

    games: int = 0
    moves: int = 0
    replies: int = 0
    other_moves: int = 0
    """Replies whose first move is not the policy's."""
    losses: Counter[str] = field(default_factory=Counter)


def analyse(config: Analysis) -> str:
    """Return the tables, in Markdown. Raises InputError for unreadable logs and an unknown policy."""
    if config.policy is not None:
        check_policy(config.policy)
    trained = None if config.adapter is None else adapter_prompts(config.adapter)
    if config.adapter is not None and trained is None:
        raise InputError(f"--adapter {config.adapter}: did not keep its training prompts")
    if trained is not None and config.policy is None:
        raise InputError("--adapter: needs --policy, the heuristic that the replies are compared with")
    games = [game for path in config.games for game in read_log(path, check=True)]
    if not games:
        raise InputError("--games: name one log of games or more")
    replies = [] if config.policy is None else list(_compared(games, config.policy))
    parts = ["Where games were lost", _losses(games, replies, config.policy)]
    if trained is not None:
        parts += ["Prompts of the training, and others", _memory(replies, trained, str(config.policy))]
    if any(claims for _, episode in games for claims in episode.claims):
        parts += ["False claims, by their first word", _claims([episode for _, episode in games])]
    return "\n\n".join(parts)


def _compared(games: Sequence[tuple[Header, Episode]], policy: str) -> Iterator[tuple[State, bool]]:
    """Yield (the state as the player saw it, whether the first move differs from the policy's) for every reply."""
    for header, episode in games:
        states = list(replay(episode.grid_size, episode.mode, episode.seed, episode.moves))
        for at, reply in zip(episode.asked_after, episode.replies, strict=False):
            shown = transform_state(states[at], header.symmetry)
            moves = parse_moves(reply)
            yield shown, not moves or moves[0] is not POLICIES[policy](shown)


def _losses(games: Sequence[tuple[Header, Episode]], replies: Sequence[tuple[State, bool]], policy: str | None) -> str:
    buckets = [_Bucket() for _ in LENGTH_BUCKETS]
    for _, episode in games:
        _count(episode, buckets)
    for shown, is_other in replies:
        bucket = buckets[length_bucket(len(shown.body))]
        bucket.replies += 1
        bucket.other_moves += is_other
    head = ["snake length", "games", "moves", *(loss.replace("_", " ") for loss in LOSSES), "lost per 1,000 moves"]
    rows = [[*head, *([f"replies against {policy}"] if policy else [])]]
    for name, bucket in zip(LENGTH_BUCKETS, buckets, strict=True):
        against = [f"{bucket.other_moves:,} of {bucket.replies:,}"] if policy else []
        losses = [str(bucket.losses[loss]) for loss in LOSSES]
        hazard = _per_thousand(bucket.losses.total(), bucket.moves)
        rows.append([name, f"{bucket.games:,}", f"{bucket.moves:,}", *losses, hazard, *against])
    return markdown_table(rows)


def _count(episode: Episode, buckets: Sequence[_Bucket]) -> None:
    """Add one game to the buckets."""
    for low, bucket in zip(LENGTH_EDGES, buckets, strict=True):
        bucket.games += episode.score + 1 > low
    for length, (begin, end) in enumerate(pairwise((0, *episode.eaten_at, len(episode.moves))), start=1):
        buckets[length_bucket(length)].moves += end - begin
    if episode.end in LOSSES:
        buckets[length_bucket(episode.score + 1)].losses[episode.end] += 1


def _memory(replies: Sequence[tuple[State, bool]], trained: TrainedPrompts, policy: str) -> str:
    """Return the disagreements on training prompts and on others: is the player right only where it was trained?"""
    rows = [["prompt", "replies", f"against {policy}", "per 1,000"]]
    by_memory: dict[bool, list[bool]] = {True: [], False: []}
    for shown, is_other in replies:
        by_memory[trained.hold(shown)].append(is_other)
    for is_trained, others in by_memory.items():
        name = "trained on" if is_trained else "not trained on"
        rows.append([name, f"{len(others):,}", f"{sum(others):,}", _per_thousand(sum(others), len(others))])
    return markdown_table(rows)


def _claims(episodes: Sequence[Episode]) -> str:
    """Return the counts of every kind of claim, and of lost games with a false one in their last reply."""
    made: Counter[str] = Counter()
    false: Counter[str] = Counter()
    last: Counter[str] = Counter()
    for episode in episodes:
        for reply, claims in zip(episode.replies, episode.claims, strict=False):
            made.update(_kind(reply[claim.start : claim.end]) for claim in claims)
            false.update(_false_kinds(reply, claims))
        if episode.end in LOSSES and episode.replies:
            last.update(set(_false_kinds(episode.replies[-1], episode.claims[-1])))
    rows = [["claim", "made", "false", "false per 1,000", "lost games with one in the last reply"]]
    for kind, number in sorted(made.items(), key=lambda item: (-false[item[0]], item[0])):
        rows.append([kind, f"{number:,}", f"{false[kind]:,}", f"{1000 * false[kind] / number:.2f}", f"{last[kind]:,}"])
    return markdown_table(rows)


def _false_kinds(reply: str, claims: Sequence[Claim]) -> Iterator[str]:
    return (_kind(reply[claim.start : claim.end]) for claim in claims if not claim.true)


def _kind(text: str) -> str:
    """`R26` -> `where a move leads`, `so R26` -> `so`, `Manhattan distance: 3` -> `Manhattan distance`."""
    text = text.strip()
    if re.fullmatch(r"\d+ [UDLR-]", text):
        return "side of the apple"
    if re.fullmatch(r"[UDLR]\d* ?[a-z]*", text):
        return "where a move leads"
    if re.fullmatch(r"so \w+", text):
        return "so"
    if re.fullmatch(r"(?:[a-z]|\d+)(?: (?:[a-z]|\d+))*", text):
        return "free cells"
    return (re.match(r"[^\d:\[({=]+?(?= [UDLR]\b| [UDLR]\d|[\d:\[({=]|$)", text) or [text])[0].strip(" '")


def _per_thousand(number: int, trials: int) -> str:
    """Return the number per 1,000 trials with Wilson's interval."""
    interval = wilson_interval(number, trials)
    if interval is None:
        return "-"
    return with_interval(1000 * number / trials, [1000 * end for end in interval])
