"""The report page in a real browser."""

from __future__ import annotations

import json
import math

import pytest

from snake_dist.evaluation.judging.episodes import play_games
from snake_dist.evaluation.judging.game_log import read_log, replay
from snake_dist.evaluation.players.protocol import HeuristicPlayer
from snake_dist.game.board import MODES, End, Move
from snake_dist.game.rules import fatal_reason, new_game, step
from snake_dist.heuristics.policies import POLICIES
from tests.support.browser import launched, opened
from tests.support.pages import HOSTILE, games, write_example


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    run = directory / "run"
    run.mkdir()
    steps = [{"step": i, "train/loss": 6 * math.exp(-i / 9), "eval/play/apples/mean": i / 5} for i in range(1, 31)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in steps))
    return write_example(directory / "report", {"adapter": run})


def logged(page_file, player):
    log = read_log(page_file.parent / "games" / f"{player}.jsonl", check=True)
    return {episode.seed: episode for _, episode in log}


def heads(episode):
    """The head after each move, as the page writes it."""
    states = replay(episode.grid_size, episode.mode, episode.seed, episode.moves)
    return [f"{state.head[0]},{state.head[1]}" for state in states]


def shown(page, side):
    box = page.locator(f"#side-{side}")
    return int(box.get_attribute("data-move")), box.get_attribute("data-head")


def choose(page, left, right, seed):
    for name, value in (("player-0", left), ("player-1", right), ("seed", str(seed))):
        page.select_option(f"#{name}", value)


def scrub(page, t):
    page.locator("#scrub").evaluate("(it, t) => { it.value = t; it.dispatchEvent(new Event('input')); }", t)


def test_two_games_stay_in_step_under_the_scrubber(browser, page_file):
    seed = games().seeds[1]
    both = [logged(page_file, name)[seed] for name in ("greedy", "bfs-safe")]
    with opened(browser, page_file) as page:
        choose(page, "greedy", "bfs-safe", seed)
        longest = max(episode.num_replies for episode in both)
        assert page.locator("#scrub").get_attribute("max") == str(longest)
        for t in (0, 1, 7, 30, both[0].steps, longest):
            scrub(page, t)
            for side, episode in enumerate(both):
                now = min(t, episode.steps)
                assert shown(page, side) == (now, heads(episode)[now])
        assert "trapped" in both[0].end
        assert "no legal move was left" in page.inner_text("#state-0")


def test_keyboard_and_buttons(browser, page_file):
    seed = games().seeds[0]
    episode = logged(page_file, "greedy")[seed]
    with opened(browser, page_file) as page:
        choose(page, "greedy", "bfs", seed)
        page.locator("#scrub").focus()
        for key, t in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0), ("d", episode.num_replies)]:
            page.keyboard.press(key)
            assert page.locator("#scrub").input_value() == str(t), key
        page.keyboard.press("f")
        moves = [logged(page_file, name)[seed].moves for name in ("greedy", "bfs")]
        first = next(i for i, (a, b) in enumerate(zip(*moves, strict=False)) if a != b)
        assert page.locator("#scrub").input_value() == str(first)
        assert shown(page, 0) == shown(page, 1)
        page.keyboard.press("ArrowRight")
        assert shown(page, 0)[1] != shown(page, 1)[1]
        page.keyboard.press("Home")
        page.keyboard.press("+")
        page.locator("#board-0").click()
        page.keyboard.press(" ")
        page.wait_for_function("Number(document.getElementById('scrub').value) >= 3")
        page.keyboard.press(" ")
        assert page.inner_text("#play") == "Play"
        page.click("#forward")
        page.click("#first")
        assert shown(page, 0)[0] == 0


def test_reasoning_is_shown_and_its_false_claims_are_marked(browser, page_file):
    seed = games().seeds[0]
    episode = logged(page_file, "adapter")[seed]
    wrong = next(t for t, claims in enumerate(episode.claims) if any(not claim.true for claim in claims))
    with opened(browser, page_file) as page:
        choose(page, "adapter", "base", seed)
        scrub(page, wrong)
        false = [episode.replies[wrong][c.start : c.end] for c in episode.claims[wrong] if not c.true]
        assert page.locator("#reply-0 mark.false").all_text_contents() == [f"{text} (false)" for text in false]
        assert page.locator("#reply-0 mark.true").count() == sum(c.true for c in episode.claims[wrong])
        assert page.inner_text("#reply-1") == "I would rather not."
        page.keyboard.press("End")
        assert HOSTILE in page.inner_text("#reply-0")
        assert page.title() == "Snake: who plays how well"


def test_a_reply_of_several_moves_stays_beside_the_boards_of_its_moves(browser, page_file):
    """Every move of the game: the reply that decided it, the board before it, and where in the reply it is."""
    seed = games().seeds[2]
    episode = logged(page_file, "planner")[seed]
    assert set(episode.moves_made) == {1, 2, 3, 4}
    decided = [(reply, k + 1, made) for reply, made in enumerate(episode.moves_made) for k in range(made)]
    with opened(browser, page_file) as page:
        choose(page, "planner", "base", seed)
        assert page.locator("#scrub").get_attribute("max") == str(episode.steps)
        for t, (reply, k, made) in enumerate(decided):
            scrub(page, t)
            assert shown(page, 0) == (t, heads(episode)[t])
            assert page.inner_text("#reply-0") == episode.replies[reply]
            ending = f"next {episode.moves[t]}" + (f" ({k} of {made} in this reply)" if made > 1 else "")
            assert page.inner_text("#state-0").endswith(ending)
        page.keyboard.press("d")
        assert shown(page, 0)[0] == episode.steps
        assert page.inner_text("#reply-0") == episode.replies[-1]


def test_the_page_says_what_report_json_says(browser, page_file):
    report = json.loads((page_file.parent / "report.json").read_text())
    with opened(browser, page_file) as page:
        ladder = page.inner_text(".ladder")
        for name, summary in report["players"].items():
            assert f"{name}\t" in ladder.replace("\n", "\t")
            assert f"{summary['apples']['mean']:.2f}" in ladder
        assert "hunyuan" not in ladder  # a 6 x 6 board: nobody has published anything for it
        assert "adapter over the base" in page.inner_text("main")
        assert page.locator(".curve path").count() == 2
        assert "human" not in ladder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways_and_in_readable_colours(browser, page_file, scheme, tmp_path):
    with opened(browser, page_file, width=360, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate(UNNAMED) == []


CONTRAST = """() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const hex = style.getPropertyValue(name).trim().replace(/^#(.)(.)(.)$/, "#$1$1$2$2$3$3");
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pairs = ["--bg", "--field", "--good-bg", "--bad-bg", "--card"].map((ground) => ["--fg", ground]);
  for (const name of ["--muted", "--accent", "--base", "--plain", "--human", "--bad"]) pairs.push([name, "--card"]);
  return pairs.filter(([a, b]) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05) < 4.5;
  });
}"""

UNNAMED = """() => [...document.querySelectorAll("button, select, input, [role=img], [role=region]")].filter((it) => {
  const labelled = it.getAttribute("aria-labelledby");
  const text = it.getAttribute("aria-label") || (labelled && document.getElementById(labelled).textContent)
    || (it.labels && [...it.labels].map((label) => label.textContent).join(""))
    || (it.type === "submit" && it.innerText);
  return !text.trim() && !it.closest("[hidden]");
}).map((it) => it.outerHTML)"""


def rough_games():
    """Games of every kind of end: policies, and greedy ones that turn on themselves in one way or another."""
    for i, mode in enumerate(MODES):
        for policy, size in (("bfs-safe", 5), ("hamiltonian", 4), ("random-legal", 5), ("greedy", 9)):
            for seed in range(3 * i, 3 * i + 3):
                state, moves = new_game(size, seed, mode), []
                states = [state]
                wanted = (End.SELF, End.REVERSAL, End.WALL)[seed % 3]
                while state.end is None:
                    fatal = [move for move in Move if fatal_reason(state, move) == wanted]
                    is_rough = policy == "greedy" and len(state.body) > 8 and fatal
                    moves.append(fatal[0] if is_rough else POLICIES[policy](state))
                    state = step(state, moves[-1])
                    states.append(state)
                yield states, moves


def test_the_pages_engine_is_the_games_engine(browser, page_file):
    """Every state of every game, generator included."""
    ends = set()
    with opened(browser, page_file) as page:
        for states, moves in rough_games():
            first = states[0]
            start = {"rng": str(first.rng), "apple": first.apple, "obstacles": sorted(first.obstacles)}
            played = page.evaluate(REPLAY, [first.grid_size, first.mode, start, [move.value for move in moves]])
            assert played == [as_page(state) for state in states]
            ends.add(states[-1].end)
    assert ends >= set(End) - {End.INVALID_REPLY, End.STEP_CAP}


REPLAY = """([gridSize, mode, start, moves]) => {
  const states = [Snake.newGame(gridSize, mode, start)];
  for (const move of moves) states.push(Snake.step(states[states.length - 1], move));
  return states.map((s) => ({ ...s, rng: String(s.rng) }));
}"""


def as_page(state):
    return {
        "gridSize": state.grid_size,
        "mode": state.mode,
        "obstacles": [list(cell) for cell in sorted(state.obstacles)],
        "body": [list(cell) for cell in state.body],
        "apple": state.apple and list(state.apple),
        "rng": str(state.rng),
        "score": state.score,
        "steps": state.steps,
        "stepsSinceApple": state.steps_since_apple,
        "end": state.end and state.end.value,
    }


@pytest.mark.parametrize("pace", ["0", "120"])
def test_a_human_plays_in_the_browser_and_the_log_stands_up(browser, page_file, tmp_path, pace):
    (expected,) = play_games(HeuristicPlayer(POLICIES["greedy"]), games(num_games=1))
    with opened(browser, page_file) as page:
        page.select_option("#human-pace", pace)
        page.click("#human-start")
        if pace == "0":
            for move in expected.moves:
                page.keyboard.press(f"Arrow{move.title()}")
        else:
            page.keyboard.press("ArrowRight")  # and no other key: on to the wall
        page.wait_for_selector("#human-save:not([disabled])")
        with page.expect_download() as download:
            page.click("#human-save")
        download.value.save_as(tmp_path / "human.jsonl")
    ((header, episode),) = read_log(tmp_path / "human.jsonl", check=True)
    assert (header.kind, header.grid_size, header.mode) == ("human", 6, "classic")
    assert ("turn-based" in header.identity) == (pace == "0")
    if pace == "0":
        assert episode == expected
    else:
        assert (episode.end, set(episode.moves)) == ("wall", {"RIGHT"})
        # On a busy machine a move comes late and the next one so much earlier: together they cannot come early.
        assert sum(episode.ms) >= 0.75 * 120 * len(episode.moves)
