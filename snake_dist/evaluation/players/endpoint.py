"""A model behind an OpenAI-compatible chat endpoint (vLLM, llama.cpp's server, a hosted one) as a player."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from snake_dist.errors import InputError
from snake_dist.evaluation.players.protocol import Answer
from snake_dist.game.board import State
from snake_dist.styles.catalog import render_prompt

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable of the key, which is read at each request and never stored, logged or shown."""
INSTRUCTION = (
    "You play Snake. End your answer with one sentence of the form `Move: X`, "
    "where X is UP, DOWN, LEFT or RIGHT in capitals, and write nothing after it."
)
"""The system message: a model that was not trained here does not know the form of a reply."""
TRIES, TIMEOUT_S, CONCURRENT = 4, 120.0, 8


@dataclass(frozen=True)
class EndpointPlayer:
    """Asks `URL/chat/completions` at temperature 0, several positions at once.

    A request that fails under load (429) or by a server error is tried `TRIES` times, with growing pauses. Raises
    InputError, naming the endpoint, for every other failure.
    """

    url: str
    """Without `/chat/completions`; most end in /v1."""
    model: str
    style: str
    """One of `catalog.STYLES`."""
    max_new_tokens: int
    pause_s: float = 1.0
    """Before the second try; doubled before each further one."""

    def replies(self, states: Sequence[State]) -> list[str]:
        return [answer.text for answer in self.answers(states)]

    def answers(self, states: Sequence[State]) -> list[Answer]:
        with ThreadPoolExecutor(CONCURRENT) as pool:
            return list(pool.map(self._ask, states))

    def _ask(self, state: State) -> Answer:
        prompt = render_prompt(state, self.style)
        answered = self._post(
            {
                "model": self.model,
                "messages": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": prompt}],
                "temperature": 0,
                "max_tokens": self.max_new_tokens,
            }
        )
        try:
            text = answered["choices"][0]["message"]["content"] or ""
            tokens = (answered.get("usage") or {}).get("completion_tokens")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise InputError(f"--endpoint {self.url}: the answer is not a chat completion") from None
        return Answer(str(text), prompt, tokens)

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            request = urllib.request.Request(address, json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                    return json.load(response)
            except urllib.error.HTTPError as refused:
                problem = f"HTTP {refused.code} {refused.reason}"
                refused.close()
                if refused.code != 429 and refused.code < 500:
                    break
            except (OSError, http.client.HTTPException) as failed:
                problem = str(getattr(failed, "reason", failed)) or type(failed).__name__
            except ValueError:
                problem = "the answer is not JSON"
        raise InputError(f"--endpoint {self.url}: {problem}")


def check_endpoint(url: str | None, model: str | None) -> tuple[str, str]:
    """Return both flags. Raises InputError unless both are given and the first is a URL."""
    if not url or not url.startswith(("http://", "https://")):
        raise InputError(f"--endpoint {url}: for --player openai, a URL such as http://localhost:8000/v1 is expected")
    if not model:
        raise InputError("--model: for --player openai, the name of the model at --endpoint is expected")
    return url, model
