"""An OpenAI-compatible endpoint, for real: a local HTTP server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from snake_dist.errors import InputError
from snake_dist.evaluation.judging.comparison import judge
from snake_dist.evaluation.judging.episodes import Games
from snake_dist.evaluation.judging.game_log import read_log
from snake_dist.evaluation.judging.state_bank import build_bank
from snake_dist.evaluation.players.endpoint import INSTRUCTION, EndpointPlayer
from snake_dist.evaluation.players.entrants import PlayerOptions, find_entrants
from snake_dist.game.rules import SEED_RANGES, new_game
from snake_dist.styles.catalog import render_prompt

KEY = "sk-very-secret"


class Server(ThreadingHTTPServer):
    """Answers UP; `script` holds HTTP codes or bodies to send first. `seen` holds what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[int | bytes] = []
        self.seen: list[tuple[str, str | None, dict]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        sent = self.server.script.pop(0) if self.server.script else answer("Move: UP")
        self.send_response(sent if isinstance(sent, int) else 200)
        self.end_headers()
        self.wfile.write(b"" if isinstance(sent, int) else sent)

    def log_message(self, *_) -> None:
        pass


def answer(text):
    choices = [{"message": {"role": "assistant", "content": text}}]
    return json.dumps({"choices": choices, "usage": {"completion_tokens": 4}}).encode()


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def str_of(body):
    return body["messages"][1]["content"]


def url_of(server):
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_games_against_an_endpoint_and_the_key_stays_out_of_the_report(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    options = PlayerOptions("x", "sentence", endpoint=url_of(server), model="some/model")
    entrants, _ = find_entrants(["openai"], options)
    games = Games(5, "classic", SEED_RANGES["test"][:3], 10)
    results, _ = judge(entrants, games, build_bank(5, "classic", 4), tmp_path)
    assert results["players"]["some/model"]["ends"]["wall"] == 3
    assert results["players"]["some/model"]["tokens_per_move"] == 4
    ((header, episode), *_) = read_log(tmp_path / "games/some-model.jsonl", check=True)
    assert header.kind == "endpoint"
    path, authorization, body = next(seen for seen in server.seen if episode.prompts[0] in str_of(seen[2]))
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert [message["content"] for message in body["messages"]] == [INSTRUCTION, episode.prompts[0]]
    assert (body["model"], body["temperature"]) == ("some/model", 0)
    assert all(KEY not in file.read_text() for file in tmp_path.rglob("*.json*"))


def test_a_busy_server_is_asked_again_and_order_is_kept(server):
    server.script = [429, 503]
    player = EndpointPlayer(url_of(server), "m", "compact", 16, pause_s=0.01)
    states = [new_game(5, seed) for seed in range(6)]
    answers = player.answers(states)
    assert [given.prompt for given in answers] == [render_prompt(state, "compact") for state in states]
    assert len(server.seen) == 8


FAULTS = {
    "no such model": ([404], "HTTP 404", 1),
    "wrong key": ([401], "HTTP 401", 1),
    "always busy": ([500] * 4, "HTTP 500", 4),
    "not JSON": ([b"<html>"] * 4, "not JSON", 4),
    "another API": ([b'{"object": "list"}'], "not a chat completion", 1),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_played_is_one_line_without_the_key(server, monkeypatch, name):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script, message, num_requests = FAULTS[name]
    with pytest.raises(InputError, match=message) as problem:
        EndpointPlayer(url_of(server), "m", "compact", 16, pause_s=0.01).replies([new_game(5, 1)])
    assert KEY not in str(problem.value)
    assert len(server.seen) == num_requests


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"--endpoint http://127\.0\.0\.1:9/v1: .*refused"):
        EndpointPlayer("http://127.0.0.1:9/v1", "m", "compact", 16, pause_s=0.01).replies([new_game(5, 1)])


@pytest.mark.parametrize(("endpoint", "model"), [(None, "m"), ("localhost:8000", "m"), ("http://localhost", None)])
def test_what_an_endpoint_needs_is_said_at_once(endpoint, model):
    with pytest.raises(InputError, match="openai"):
        find_entrants(["openai"], PlayerOptions("x", "compact", endpoint=endpoint, model=model))
