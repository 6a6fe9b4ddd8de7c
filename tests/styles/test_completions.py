"""Every claim of every completion is computed again here, from the state alone and by brute force."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from snake_dist.errors import InputError
from snake_dist.game.board import MODES, Cell, End, Move, State
from snake_dist.game.rules import legal_moves, new_game, random_below, step
from snake_dist.game.symmetry import NUM_SYMMETRIES, transform_move, transform_state
from snake_dist.heuristics.cell_tree import cell_tree_goal
from snake_dist.heuristics.hamiltonian import cycle_slots
from snake_dist.heuristics.policies import POLICIES, plays_on
from snake_dist.styles.catalog import STYLES, check_claims, render_completion, render_prompt, teacher_on
from snake_dist.styles.replies import parse_moves, parse_reply

DELTAS = {"UP": (0, 1), "RIGHT": (1, 0), "DOWN": (0, -1), "LEFT": (-1, 0)}
FATAL = (End.WALL, End.SELF, End.REVERSAL)


def positions(grid_size: int, mode: str) -> list[tuple[State, Move, str]]:
    """(state, the policy's move, policy) from games of every policy, thinned out but for their last moves.

    In every second game a tenth of the moves is drawn at random: such snakes lie awkwardly, and die young.
    """
    found = []
    for seed, (policy, decide) in enumerate(POLICIES.items()):
        if not plays_on(policy, grid_size, mode):
            continue
        state, rng, trail = new_game(grid_size, seed, mode), seed, []
        while state.end is None and state.steps < 400:
            move = decide(state)
            trail.append((state, move, policy))
            rng, draw = random_below(rng, 120)
            legal = legal_moves(state)
            state = step(state, legal[draw % len(legal)] if seed % 2 == 0 and draw < 12 else move)
        found += [*trail[:: max(len(trail) // 14, 1)], *trail[-5:]]
    return [
        (transform_state(state, i % NUM_SYMMETRIES), transform_move(move, i % NUM_SYMMETRIES), policy)
        for i, (state, move, policy) in enumerate(found)
    ]


def neighbor(state: State, cell: Cell, name: str) -> Cell | None:
    x, y, n = cell[0] + DELTAS[name][0], cell[1] + DELTAS[name][1], state.grid_size
    if state.mode == "wrap":
        return x % n, y % n
    return (x, y) if x in range(n) and y in range(n) else None


def is_fatal(state: State, name: str) -> bool:
    return step(state, Move(name)).end in FATAL


def reach(state: State, start: Cell, blocked: set[Cell]) -> dict[Cell, int]:
    found, queue = {start: 0}, [start]
    for cell in queue:
        for name in DELTAS:
            there = neighbor(state, cell, name)
            if there is not None and there not in found and there not in blocked:
                found[there] = found[cell] + 1
                queue.append(there)
    return found


def path_lengths(state: State) -> dict[str, int]:
    """First move -> length of the shortest path to the apple that begins with it. The tail's cell is open,
    but for a snake of length 2, where it is the neck."""
    blocked = {*state.body[:-1], *state.body[1:2], *state.obstacles}
    found = {}
    for name in DELTAS:
        there = neighbor(state, state.head, name)
        if there is not None and there not in blocked and state.apple in (steps := reach(state, there, blocked)):
            found[name] = 1 + steps[state.apple]
    return found


def tail_reachable_after(state: State, move: Move) -> bool:
    body = step(state, move).body
    return body[-1] in reach(state, body[0], {*body[:-1], *state.obstacles})


def straight_run(state: State, name: str) -> int:
    run, cell = 0, neighbor(state, state.head, name)
    while cell is not None and cell not in state.body and cell not in state.obstacles:
        run, cell = run + 1, neighbor(state, cell, name)
    return run


def check_sides(state: State, letters: str, claimed: str, axis: int) -> None:
    """The claimed side is that of the apple: in wrap mode one by which the way round is no longer."""
    assert state.apple is not None
    offset = state.apple[axis] - state.head[axis]
    if offset == 0:
        assert claimed == "-"
    elif state.mode == "wrap":
        steps = {letters[0]: -offset % state.grid_size, letters[1]: offset % state.grid_size}
        assert steps[claimed] == min(steps.values())
    else:
        assert claimed == letters[offset > 0]


def check_metrics(state: State, text: str, to_apple: str) -> None:
    found = dict(re.findall(r"^- ([^:]+): (.*)$", text, re.MULTILINE))
    distance = f"Manhattan distance{to_apple}"
    assert set(found) == {"Valid moves", distance, "Apple direction", "Danger assessment", "Free space"}
    assert ast.literal_eval(found["Valid moves"]) == [name for name in DELTAS if not is_fatal(state, name)]
    assert state.apple is not None
    to_go = reach(state, state.apple, set())
    assert int(found[distance]) == to_go[state.head]
    towards = ast.literal_eval(found["Apple direction"])
    assert list(towards) == ["up", "down", "left", "right"]
    for name, claimed in towards.items():
        there = neighbor(state, state.head, name.upper())
        is_nearer = there is not None and to_go[there] < to_go[state.head]
        opposite = {"up": "down", "down": "up", "left": "right", "right": "left"}[name]
        # In wrap mode both ways round can be equally short; one of them is named then.
        assert claimed == is_nearer or (state.mode == "wrap" and is_nearer and towards[opposite] == 1)
    order = ["UP", "RIGHT", "DOWN", "LEFT"]
    heading = "UP"
    if len(state.body) > 1:
        heading = next(name for name in order if neighbor(state, state.body[1], name) == state.head)
    turned = {"straight": 0, "left": 3, "right": 1}
    dangers = {side: int(is_fatal(state, order[(order.index(heading) + k) % 4])) for side, k in turned.items()}
    assert ast.literal_eval(found["Danger assessment"]) == dangers
    free = {name.upper(): int(run) for name, run in re.findall(r"(\w+)(?:=|': )(\d+)", found["Free space"])}
    assert free == {name: straight_run(state, name) for name in DELTAS}


def check_reason(state: State, move: Move, policy: str, text: str) -> None:
    first, moving, counts, rationale = text.split("\n")
    assert moving == f"Moving {move.value} from [{state.head[0]}, {state.head[1]}]"
    match = re.fullmatch(r"Distance: (\d+), Free cells: (\d+)", counts)
    assert match
    assert int(match[1]) == reach(state, state.head, set())[state.apple]
    assert int(match[2]) == state.grid_size**2 - len(state.body) - len(state.obstacles)
    lengths = path_lengths(state)
    shortest = min(lengths.values(), default=None)
    if shortest is not None and lengths.get(move.value) == shortest:
        assert first == f"{policy.upper()}: Found path to apple ({shortest} steps)"
        assert rationale == "Rationale: Shortest path to apple"
        return
    headline = "No path to apple" if shortest is None else f"Not on shortest path to apple ({shortest} steps)"
    assert first == f"{policy.upper()}: {headline}"
    safe = tail_reachable_after(state, move)
    assert rationale == ("Rationale: Tail stays reachable" if safe else "Rationale: Legal move")


def check_compact(state: State, move: Move, text: str) -> None:
    match = re.fullmatch(r"(.*)\. ok ([UDLR ]+)\. apple (\d+) (\S) (\d+) (\S)\. Move: ([A-Z]+)", text)
    assert match
    surroundings, legal, x, across, y, along, decided = match.groups()
    assert state.apple is not None
    width = len(str(state.grid_size - 1))
    for numbers, at, apple in zip((x, y), state.head, state.apple, strict=True):
        assert numbers == f"{at:0{width}}{apple:0{width}}"
    assert decided == move.value
    assert legal.split() == [name[0] for name in ("UP", "DOWN", "LEFT", "RIGHT") if not is_fatal(state, name)]
    check_sides(state, "LR", across, axis=0)
    check_sides(state, "DU", along, axis=1)
    facts = re.fullmatch(r"U(\S* ?\S*) D(\S* ?\S*) L(\S* ?\S*) R(\S* ?\S*)", surroundings)
    assert facts
    for name, fact in zip(("UP", "DOWN", "LEFT", "RIGHT"), facts.groups(), strict=True):
        there = neighbor(state, state.head, name)
        if there is None:
            assert fact == " wall"
            continue
        cell, what = fact.split(" ") if " " in fact else (fact, "free")
        # The prompt names the head: the same notation must name this cell.
        as_head = State(state.grid_size, "classic", (there,), (0, 0), frozenset(), 0)
        shown = re.search(r"head (\d+) ", render_prompt(as_head, "compact"))
        assert shown
        assert cell == shown[1]
        true_of_cell = {
            "apple": there == state.apple,
            "neck": there in state.body[1:2],
            "tail": there == state.body[-1] and there not in state.body[1:2],
            "body": there in state.body[2:-1],
            "block": there in state.obstacles,
            "free": there not in state.body and there not in state.obstacles and there != state.apple,
        }
        assert [word for word, holds in true_of_cell.items() if holds] == [what]
        assert is_fatal(state, name) == (what in ("neck", "body", "block"))


def check_path(state: State, move: Move, policy: str, path: str) -> None:
    """The teacher's moves, each with the cell it leads to, to the apple or for 16 moves."""
    before = state
    for word in path.split():
        assert before.score == state.score
        assert word[0] == (move if before is state else POLICIES[policy](before)).value[0]
        before = step(before, next(each for each in Move if each.value[0] == word[0]))
        shown = re.search(
            r"head (\d+) ",
            render_prompt(State(state.grid_size, "classic", before.body, (0, 0), frozenset(), 0), "compact"),
        )
        assert shown
        assert word[1:] == shown[1]
    assert before.score > state.score or before.end is not None or len(path.split()) == 16


def check_turned(state: State, move: Move, policy: str, text: str) -> None:
    """The teacher's moves to the apple, or 16: for each the cells it may enter and the one it does, as the prompt names
    cells."""
    n = state.grid_size
    shown = re.search(r"turn (\d) snake ([a-z0-9 ]+) apple (\w+)", render_prompt(state, "turned"))
    assert shown
    cells = [(x, y) for y in range(n) for x in range(n)]
    letters = {cell: "abcdefghijklmnopqrstuvwxyz"[i] for i, cell in enumerate(cells)} if n <= 5 else {}
    names = letters or {(x, y): f"{x:0{len(str(n - 1))}}{y:0{len(str(n - 1))}}" for x, y in cells}

    def name(cell: Cell) -> str:
        moved = transform_state(State(n, "classic", (cell,), None, frozenset(), 0), int(shown[1]))
        return names[moved.head]

    assert state.apple is not None
    assert (shown[2].split(), shown[3]) == ([name(cell) for cell in state.body], name(state.apple))
    match = re.fullmatch(r"free (.*)\. Moves: ([UDLR ]+)", text)
    assert match
    thought, moves, before = match[1].split(", "), match[2].split(), state
    for told, letter in zip(thought, moves, strict=True):
        assert (before.score, before.end) == (state.score, None)
        assert letter == (move if before is state else POLICIES[policy](before)).value[0]
        legal = [neighbor(before, before.head, each) for each in DELTAS if not is_fatal(before, each)]
        before = step(before, next(each for each in Move if each.value[0] == letter))
        assert told == f"{' '.join(sorted(name(cell) for cell in legal if cell))} so {name(before.head)} {letter}"
    assert before.score > state.score or before.end is not None or len(moves) == 16


@pytest.mark.parametrize("grid_size", [4, 5, 9])
def test_symmetric_positions_differ_in_the_turn_alone_and_have_the_same_thought(grid_size: int) -> None:
    for state, move, policy in positions(grid_size, "classic")[::3]:
        turned = [(transform_state(state, i), transform_move(move, i)) for i in range(NUM_SYMMETRIES)]
        prompts = [render_prompt(each, "turned") for each, _ in turned]
        assert len({re.sub(r"turn \d", "", prompt) for prompt in prompts}) == 1
        assert len(set(prompts)) == len({(each.body, each.apple) for each, _ in turned})
        if policy == "optimal":
            said = [render_completion(each, moved, "turned", policy) for each, moved in turned]
            thoughts = [re.sub(r" [UDLR](?=[,.])", "", text.partition("Moves:")[0]) for text in said]
            assert len(set(thoughts)) == 1


@pytest.mark.parametrize(("grid_size", "mode"), [(6, "classic"), (5, "classic"), (10, "classic"), (6, "wrap")])
def test_cycle_completions_walk_to_the_apple_in_the_cycles_order(grid_size: int, mode: str) -> None:
    state = new_game(grid_size, 3, mode)
    num_jumps = num_followed = 0
    while state.end is None:
        text = render_completion(state, POLICIES["hamiltonian-shortcuts"](state), "cycle", "hamiltonian-shortcuts")
        form = (
            r"at (\d+) apple (\d+)(?: (\d+))? tail (\d+)(?: (\d+))? "
            r"(?:reach (\d+)\. ((?:[A-Z0-9 ]+ so \w+\. )+)|follow\. )Moves: (.*)"
        )
        match = re.fullmatch(form, text)
        assert match, text
        moves = parse_moves(text)
        assert moves
        at, apple, tail = (int(match[i]) for i in (1, 2, 4))
        count = cycle_slots(grid_size, mode)[1]
        reach, takes_shortcuts = int(match[6] or 0), match[6] is not None
        slots = [at]
        for word in re.findall(r"so (\w+)", match[7]) if takes_shortcuts else match[8].split():
            slots.append(int(word[1:]) if takes_shortcuts else slots[-1] + (int(word[1:]) - slots[-1]) % count)
        if takes_shortcuts:
            assert (int(match[3]), int(match[5])) == (apple + (apple <= at) * count, tail + (tail <= at) * count)
            assert len({len(word) for word in re.findall(r"\d+", text.partition("tail ")[2].partition(" ")[2])}) == 1
        else:
            assert match[3] is match[5] is None
        for told, (here, to) in zip((match[7] or "").split(". ")[:-1], pairwise(slots), strict=False):
            led = [(int(word[1:]), word[0]) for word in told.split(" so ")[0].split()]
            assert led == sorted(led)
            within = [each for each in led if each[0] <= max(reach, here + 1)]
            assert within[-1][0] == to, "the farthest within reach"
        assert len(moves) == len(slots) - 1 <= (4 if takes_shortcuts else 16)
        assert sorted(set(slots)) == slots, "slots rise"
        assert slots[-1] <= at + ((apple - at) % count or count)
        jumps = [b for a, b in pairwise(slots) if b > a + 1]
        assert all(slot <= reach for slot in jumps)
        num_jumps, num_followed = num_jumps + len(jumps), num_followed + (not takes_shortcuts)
        score = state.score
        for move in moves:
            assert state.end is None
            assert state.score == score, "the moves end with the apple"
            state = step(state, move)
    assert (state.end, num_jumps > 3, num_followed > 3) == (End.BOARD_FULL, True, True)


def test_style_cycle_teaches_nothing_else() -> None:
    off = State(6, "classic", ((2, 2), (2, 3), (3, 3), (3, 2), (3, 1), (2, 1)), (5, 5), frozenset(), 0)
    on = new_game(6, 1)
    other = next(move for move in legal_moves(on) if move is not POLICIES["hamiltonian-shortcuts"](on))
    for state, move in ((off, Move.LEFT), (new_game(6, 1, "obstacles"), Move.UP), (on, other)):
        with pytest.raises(ValueError, match="style cycle cannot teach it"):
            render_completion(state, move, "cycle", "hamiltonian-shortcuts")


def check_look_cycle(state: State, move: Move, compact: str, text: str) -> None:
    """What lies around the head, then what style cycle says; compact's words where that has none."""
    try:
        plan = render_completion(state, move, "cycle", "hamiltonian-shortcuts")
    except ValueError:
        assert text == compact
    else:
        assert text == f"{compact.partition('. apple ')[0]}. {plan}"


def open_roads(state: State) -> dict[str, Cell]:
    """Move -> place, by the rules: on the right, into the own cell of 2 x 2, one without body, or the own's parent."""
    head, cells = state.head, [(x // 2, y // 2) for x, y in state.body]
    own = cells[0]
    came = len(cells) - 1 - cells[::-1].index(own)  # the earliest place of the body in the head's cell
    parent = cells[came + 1] if came + 1 < len(cells) else own
    found = {}
    for name in ("UP" if head[0] % 2 else "DOWN", "LEFT" if head[1] % 2 else "RIGHT"):
        there = neighbor(state, head, name)
        if there is not None and not is_fatal(state, name):
            cell = there[0] // 2, there[1] // 2
            if cell in (own, parent) or cell not in cells:
                found[name] = there
    return found


def check_roads(state: State, move: Move, policy: str, compact: str, text: str) -> None:
    """The way to the goal, 16 moves at most: open roads, the one taken as short as any; or compact's words."""
    match = re.fullmatch(r"(.*)\. roads to (\d+)\. ([^.]*)\. Moves: ([UDLR ]+)", text)
    if match is None:
        assert text == compact
        return
    assert match[1] == compact.partition(". apple ")[0]
    width, before, told = len(str(state.grid_size - 1)), state, match[3].split(", ")
    moves = match[4].split()
    assert len(told) == len(moves) <= 16

    def name(cell: Cell) -> str:
        return f"{cell[0]:0{width}}{cell[1]:0{width}}"

    for words, letter in zip(told, moves, strict=True):
        assert before.score == state.score
        taken = move if before is state else POLICIES[policy](before)
        assert letter == taken.value[0]
        roads = {each[0] + name(there): there for each, there in open_roads(before).items()}
        said = dict(re.findall(r"([UDLR]\d+)(?: (\d+|-))?", words.partition(" so ")[0]))
        assert said.keys() == roads.keys()
        steps = {road: float("inf") if number == "-" else int(number or 0) for road, number in said.items()}
        before = step(before, taken)
        into = letter + name(before.head)
        assert words.rpartition(" so ")[2] == into
        if policy == "cell-tree":
            assert steps[into] == min(steps.values())
            assert steps[into] < float("inf")
    assert match[2] == name(before.head) or len(moves) == 16 or before.score == state.score


def check_ways(state: State, move: Move, text: str) -> None:
    """The way back from the goal, along the prompt's arrows, and its first three moves; or another move alone."""
    goal, head, ways = re.findall(r" to (\S+) ways (..)\.(\S+)", render_prompt(state, "ways"))[0]
    entries = re.findall("(..)([UDLR])(..)", ways)
    assert "".join(map("".join, entries)) == ways
    arrows = [(place, letter) for place, letter, _ in entries]
    assert len(dict(arrows)) == len(arrows)

    signs = "0123456789&~@^#;"

    def named(place: Cell) -> str:
        return signs[place[0]] + signs[place[1]]

    assert head == named(state.head)
    for name, letter, before in entries:  # each place is entered from the head or from another of them
        x, y = DELTAS[next(move.value for move in Move if move.value[0] == letter)]
        n = state.grid_size
        assert before == named(((signs.index(name[0]) - x) % n, (signs.index(name[1]) - y) % n))
        assert before in dict(arrows) or before == head
    if not text.startswith("back "):
        assert text == f"Moves: {move.value[0]}{named(step(state, move).head)}"
        return
    back, said = re.findall(r"back (\S+)\. Moves: (.*)", text)[0]
    way = re.findall("(..)([UDLR])", back)[::-1]
    assert back.endswith(f"{way[0][1]}{named(state.head)}")
    assert set(way) <= set(arrows)
    assert way[-1][0] == goal
    assert said == " ".join(letter + place for place, letter in way[:3])
    keeps_to_roads = cell_tree_goal(state) is not None
    for i, (place, letter) in enumerate(way):
        taken = next(each for each in Move if each.value[0] == letter)
        assert taken == move or i > 0
        if state.end is End.STARVED:
            return
        assert not keeps_to_roads or named(open_roads(state)[taken.value]) == place
        assert taken in legal_moves(state)
        state = step(state, taken)
        assert named(state.head) == place


def check(state: State, move: Move, policy: str) -> Iterator[str]:
    for style in [name for name, style in STYLES.items() if not style.on_cycle]:
        text = render_completion(state, move, style, policy)
        assert parse_reply(text) == move
        if style == "compact":
            compact = text
            check_compact(state, move, text)
        elif style == "move":
            assert text == f"Move: {move.value}"
        elif style == "facts":
            assert text == re.sub(r" ok [UDLR ]+\.", "", compact)
        elif style == "path":
            facts, path = text.split(" Moves: ")
            assert facts == compact.removesuffix(f" Move: {move.value}")
            check_path(state, move, policy, path)
        elif style == "turned":
            check_turned(state, move, policy, text)
        elif style == "look-cycle":
            check_look_cycle(state, move, compact, text)
        elif style == "roads":
            check_roads(state, move, policy, compact, text)
        elif style == "ways":
            check_ways(state, move, text)
        elif style == "sentence":
            assert text.startswith(f"Moving {move.value} from [{state.head[0]}, {state.head[1]}]\n\nMetrics:\n")
            assert text.endswith(f"\n\nConclusion: The move is: {move.value}")
            check_metrics(state, text, " to apple")
        elif style == "board":
            reason, metrics, conclusion = text.split("\n\n")
            assert conclusion == f"Conclusion: {move.value}"
            check_reason(state, move, policy, reason)
            check_metrics(state, metrics, "")
        else:
            assert text == f"{reason}\n\n{conclusion}"
        yield text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("grid_size", [4, 5, 11])
def test_every_claim_is_true(grid_size: int, mode: str) -> None:
    seen = positions(grid_size, mode)
    texts = [text for state, move, policy in seen for text in check(state, move, policy)]
    # The sample has to hold what is hard to get right, or the test proves little.
    assert max(len(state.body) for state, _, _ in seen) > grid_size**2 / 3
    everything = "\n".join(texts)
    words = ["apple", "body", "neck", "tail", "Shortest path to apple", "Not on shortest path"]
    words += {"classic": ["wall"], "wrap": [], "obstacles": ["wall", "block"]}[mode]
    assert [word for word in words if word not in everything] == []


NUM_CLAIMS = {"sentence": 14, "board": 18, "short": 5, "compact": 7, "move": 0, "facts": 6, "path": 7, "cycle": 4}
"""Of a completion, beside one for each move that it says the end of."""


def num_claims(style: str, completion: str) -> int:
    _, found, plan = completion.partition(". at ")
    if style == "look-cycle":
        return num_claims("cycle", f"at {plan}") + 5 if found else num_claims("compact", completion)
    if style == "ways":
        back, _, moves = completion.partition("Moves: ")
        return len(re.findall(r"\d\d", back)) + len(moves.split())
    _, found, plan = completion.partition(". roads ")
    if style == "roads":
        return len(plan.split(", ")) + 6 if found else num_claims("compact", completion)
    text = completion if style == "cycle" else completion.partition("Moves: ")[2]
    if style == "turned":
        return 2 * len(text.split()) + 1
    return NUM_CLAIMS[style] + len(re.findall(r"[UDLR]\d+", text))


@pytest.mark.parametrize(
    ("style", "mode"),
    [(style, mode) for style in STYLES for mode in MODES if mode != "obstacles" or not STYLES[style].on_cycle],
)
def test_all_claims_of_a_completion_are_found_and_true(style: str, mode: str) -> None:
    teacher = teacher_on(style, 6, mode)
    state = new_game(6, 3, mode)
    while state.end is None and state.steps < 150:
        completion = render_completion(state, POLICIES[teacher](state), style, teacher)
        claims = check_claims(state, completion)
        assert all(claim.true for claim in claims), completion
        assert len(claims) == num_claims(style, completion), completion
        state = step(state, POLICIES[teacher](state))


def test_a_teacher_of_small_boards_has_a_substitute_on_others() -> None:
    assert [teacher_on("turned", size, mode) for size, mode in ((5, "classic"), (6, "classic"), (4, "wrap"))] == [
        "optimal",
        "bfs-safe",
        "bfs-safe",
    ]
    assert teacher_on("cycle", 6, "classic") == STYLES["cycle"].teacher


def test_without_a_path_nothing_is_found() -> None:
    # The body shuts the head into the left column; the tail is inside with it, the apple is not.
    body = ((0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (0, 3))
    state = State(4, "classic", body, (3, 3), frozenset(), 0)
    assert list(check(state, Move.UP, "bfs"))[1].startswith("BFS: No path to apple\n")
    assert "Rationale: Tail stays reachable" in render_completion(state, Move.UP, "short", "bfs")


def test_a_move_that_cuts_off_the_tail_says_no_more_than_that_it_is_legal() -> None:
    body = ((2, 0), (2, 1), (2, 2), (2, 3), (3, 3), (3, 2), (3, 1))
    state = State(4, "classic", body, (3, 0), frozenset(), 0)
    texts = list(check(state, Move.LEFT, "dfs"))
    assert "Not on shortest path to apple (1 steps)" in texts[1]
    assert "Rationale: Legal move" in texts[1]


def test_real_v004_lines_come_out_the_same() -> None:
    start = State(10, "classic", ((5, 5),), (7, 0), frozenset(), 0)
    assert render_completion(start, Move.DOWN, "sentence", "bfs") == (
        "Moving DOWN from [5, 5]\n\nMetrics:\n- Valid moves: ['UP', 'RIGHT', 'DOWN', 'LEFT']\n"
        "- Manhattan distance to apple: 7\n- Apple direction: {'up': 0, 'down': 1, 'left': 0, 'right': 1}\n"
        "- Danger assessment: {'straight': 0, 'left': 0, 'right': 0}\n"
        "- Free space: {'up': 4, 'down': 5, 'left': 5, 'right': 4}\n\nConclusion: The move is: DOWN"
    )
    second = State(10, "classic", ((8, 3), (8, 4)), (8, 0), frozenset(), 0)
    reason = (
        "BFS: Found path to apple (3 steps)\nMoving DOWN from [8, 3]\nDistance: 3, Free cells: 98\n"
        "Rationale: Shortest path to apple\n\n"
    )
    assert render_completion(second, Move.DOWN, "short", "bfs") == f"{reason}Conclusion: DOWN"
    assert render_completion(second, Move.DOWN, "board", "bfs") == (
        f"{reason}Metrics:\n- Valid moves: ['RIGHT', 'DOWN', 'LEFT']\n- Manhattan distance: 3\n"
        "- Apple direction: {'up': 0, 'down': 1, 'left': 0, 'right': 0}\n"
        "- Danger assessment: {'straight': 0, 'left': 0, 'right': 0}\n"
        "- Free space: UP=0, DOWN=3, LEFT=8, RIGHT=1\n\nConclusion: DOWN"
    )


def test_nothing_is_taught_that_kills() -> None:
    state = State(4, "classic", ((0, 0), (1, 0)), (3, 3), frozenset(), 0)
    for move in (Move.LEFT, Move.RIGHT):
        with pytest.raises(ValueError, match="no move to teach"):
            render_completion(state, move, "compact", "bfs")
    with pytest.raises(InputError, match=r"'prose'.*compact"):
        render_completion(state, Move.UP, "prose", "bfs")
