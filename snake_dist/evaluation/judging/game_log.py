"""Game logs: one JSON line for every game, the same for models, heuristics and humans.

docs/evaluation.md defines the fields. A line is written when its game ends, so a stopped comparison resumes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.episodes import Episode, Games
from snake_dist.files import append_line
from snake_dist.game.board import Cell, End, Move, State
from snake_dist.game.rules import check_game_options, end_game, new_game, step
from snake_dist.styles.style import Claim

FORMAT = "snake_dist game 1"


@dataclass(frozen=True)
class Header:
    """The player and its conditions: the same in every line of a log."""

    player: str
    """Name in the report."""
    kind: str
    """heuristic, model, endpoint or human."""
    identity: str
    """What decides how the player plays (weights, prompt style, ...): a log is not continued under another identity."""
    grid_size: int
    mode: str
    max_steps: int
    """A game is stopped after this many moves; 0: never."""
    symmetry: int = 0
    """How the board is turned for the player (`game.symmetry`)."""


def to_line(header: Header, episode: Episode) -> str:
    """Return the JSON of one game, without a line end. Columns without information are left out."""
    record: dict[str, Any] = {"format": FORMAT, **vars(header)}
    record |= {"seed": episode.seed, "score": episode.score, "steps": episode.steps, "end": episode.end}
    record |= {"moves": episode.moves, "apples": episode.apples, "eaten_at": episode.eaten_at, "ms": episode.ms}
    if episode.obstacles:
        record["obstacles"] = episode.obstacles
    if episode.replies != episode.moves:
        record["replies"] = episode.replies
    if any(made > 1 for made in episode.moves_made):
        record["moves_made"] = episode.moves_made
    if any(episode.claims):
        record["claims"] = [[[c.start, c.end, int(c.true)] for c in claims] for claims in episode.claims]
    for name in ("prompts", "tokens"):
        if (column := getattr(episode, name)) is not None:
            record[name] = column
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def replay(grid_size: int, mode: str, seed: int, moves: tuple[str, ...]) -> Iterator[State]:
    """Yield the states of a game from its first on. Raises ValueError if moves follow its end."""
    state = new_game(grid_size, seed, mode)
    yield state
    for move in moves:
        state = step(state, Move(move))
        yield state


def read_log(path: Path, *, check: bool) -> list[tuple[Header, Episode]]:
    """Return the games of a file, in its order, without a torn last line, which a killed process may leave.

    With `check` every game is replayed. Raises InputError naming file and line for a line that is not a game, or
    whose moves do not give its result, and with `check` for a file without a game.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as problem:
        raise InputError(f"{path}: {problem.strerror}") from None
    games = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            games.append(_from_line(json.loads(line)))
        except (ValueError, KeyError, TypeError, InputError) as problem:
            raise InputError(f"{path}:{number}: not a game's log ({type(problem).__name__}: {problem})") from None
        if check and (fault := _fault(*games[-1])):
            raise InputError(f"{path}:{number}: {fault}")
    if check and not games:
        raise InputError(f"{path}: has no game")
    return games


class GameLog:
    """The growing log of one player, a context manager; `finished` holds its games by seed."""

    def __init__(self, path: Path, header: Header) -> None:
        """Open or begin the file. Raises InputError if it has games of another player or other conditions."""
        self.finished: dict[int, Episode] = {}
        self._header = header
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for other, episode in read_log(path, check=False):
                if other != header:
                    named = next(name for name, value in vars(header).items() if getattr(other, name) != value)
                    raise InputError(
                        f"{path}: has games with {named} {getattr(other, named)!r}, not {getattr(header, named)!r}: "
                        "name another --report directory, or remove the file"
                    )
                self.finished[episode.seed] = episode
        self._file = path.open("ab", buffering=0)
        whole = path.read_bytes().rfind(b"\n") + 1
        self._file.truncate(whole)

    def append(self, episode: Episode) -> None:
        """Write a finished game through to the disk. Raises OSError, with the file's name, if that cannot be done."""
        self.finished[episode.seed] = episode
        append_line(self._file, to_line(self._header, episode).encode() + b"\n", durable=True)

    def __enter__(self) -> GameLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def open_log(directory: Path, games: Games, name: str, kind: str, identity: str) -> GameLog:
    """Open or begin the log of one player of a comparison, `directory/NAME.jsonl`. Raises InputError; see `GameLog`."""
    header = Header(name, kind, identity, games.grid_size, games.mode, games.max_steps, games.symmetry)
    return GameLog(log_path(directory, name), header)


def log_path(directory: Path, name: str) -> Path:
    """Return where a player's log lies."""
    return directory / f"{re.sub('[^A-Za-z0-9._-]+', '-', name)}.jsonl"


def _from_line(record: Mapping[str, Any]) -> tuple[Header, Episode]:
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']!r}, expected {FORMAT!r}")
    header = Header(**{name: record[name] for name in Header.__dataclass_fields__})
    check_game_options(header.grid_size, header.mode)
    moves = tuple(Move(move).value for move in record["moves"])
    replies = tuple(record.get("replies", moves))
    # A log of single moves leaves it out: one move a reply, and none for a last reply that named no move.
    made = tuple(map(int, record.get("moves_made", [1] * len(moves) + [0] * (len(replies) - len(moves)))))
    claims = record.get("claims", [[]] * len(replies))
    end = End(record["end"])
    num_fatal = end in (End.WALL, End.SELF, End.REVERSAL)
    return header, Episode(
        grid_size=header.grid_size,
        mode=header.mode,
        seed=int(record["seed"]),
        score=int(record["score"]),
        steps=int(record["steps"]),
        end=end.value,
        num_replies=len(replies),
        num_valid_format=sum(n > 0 for n in made),
        num_legal=len(moves) - num_fatal,
        moves=moves,
        obstacles=tuple((int(x), int(y)) for x, y in record.get("obstacles", ())),
        apples=tuple((int(x), int(y)) for x, y in record["apples"]),
        eaten_at=tuple(map(int, record["eaten_at"])),
        replies=replies,
        moves_made=made,
        claims=tuple(tuple(Claim(start, stop, bool(true)) for start, stop, true in each) for each in claims),
        prompts=tuple(record["prompts"]) if "prompts" in record else None,
        tokens=tuple(record["tokens"]) if "tokens" in record else None,
        ms=tuple(record["ms"]),
    )


def _fault(header: Header, episode: Episode) -> str | None:
    """Return the first contradiction between a game and the rules, or None."""
    apples: list[Cell] = []
    eaten_at: list[int] = []
    score, state = 0, None
    try:
        for seen in replay(episode.grid_size, episode.mode, episode.seed, episode.moves):
            if seen.score > score or state is None:
                eaten_at += [seen.steps] if state is not None else []
                apples += [seen.apple] if seen.apple is not None else []
            score, state = seen.score, seen
    except ValueError:
        return "moves follow the game's end"
    assert state is not None
    made = episode.moves_made
    named = made[:-1] if episode.end == End.INVALID_REPLY.value else made
    if len(made) != episode.num_replies or sum(made) != len(episode.moves) or min(named, default=1) < 1:
        return f"{episode.num_replies} replies for {len(episode.moves)} moves and the end {episode.end}"
    if state.end is None and episode.end in (End.STEP_CAP.value, End.INVALID_REPLY.value):
        if episode.end == End.STEP_CAP.value and state.steps != header.max_steps:
            return f"stopped after {state.steps} moves, where max_steps is {header.max_steps}"
        state = end_game(state, End(episode.end))
    if state.end is None:
        return f"the game is not over after its {len(episode.moves)} moves"
    played: dict[str, Any] = {"end": state.end.value, "score": state.score, "steps": state.steps}
    played |= {"apples": tuple(apples), "eaten_at": tuple(eaten_at), "obstacles": tuple(sorted(state.obstacles))}
    wrong = next((name for name, value in played.items() if getattr(episode, name) != value), None)
    return None if wrong is None else f"{wrong} {getattr(episode, wrong)}: the moves give {played[wrong]}"
