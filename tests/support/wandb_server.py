"""A local stand-in of the W&B service, as far as a run needs it: it keeps what the client sends."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.processes import free_port

KEY = "0123456789abcdef" * 2 + "01234567"
ACCOUNT = "me"


@dataclass
class LoggedRun:
    """One run as the service knows it."""

    about: dict[str, Any] = field(default_factory=dict)
    """project, entity, groupName, displayName, tags."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def series(self, metric: str) -> list[tuple[int, Any]]:
        """(step, value) of every line that has the metric."""
        return [(line["_step"], line[metric]) for line in self.history if metric in line]


class WandbServer:
    """The service; it answers inside the context. Another context on the same port goes on with the same runs."""

    def __init__(self) -> None:
        self.port = free_port()
        self.runs: dict[str, LoggedRun] = {}
        self._server: ThreadingHTTPServer | None = None

    @property
    def account(self) -> dict[str, str]:
        """Environment variables of somebody who has logged in."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.port}", "WANDB_API_KEY": KEY}

    def start(self) -> WandbServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"service": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def __enter__(self) -> WandbServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_up(self) -> bool:
        return self._server is not None

    def query(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The answer to a GraphQL operation."""
        answers = {"Viewer": self._viewer, "RunResumeStatus": self._run, "UpsertBucket": self._upsert_run}
        if operation not in answers:
            return {"errors": [{"message": f"the stand-in has no {operation}"}]}
        return {"data": answers[operation](variables)}

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        known = {"id": "V", "entity": ACCOUNT, "username": ACCOUNT, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": known}

    def _run(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(asked["name"])
        bucket = None if run is None else self._bucket(asked["name"], run)
        return {"model": {**self._project(asked), "bucket": bucket}}

    def _upsert_run(self, asked: dict[str, Any]) -> dict[str, Any]:
        is_new = asked["name"] not in self.runs
        run = self.runs.setdefault(asked["name"], LoggedRun())
        run.about |= {name: value for name, value in asked.items() if value is not None}
        bucket = self._bucket(asked["name"], run) | {"project": self._project(asked)}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _bucket(self, name: str, run: LoggedRun) -> dict[str, Any]:
        tail = json.dumps([json.dumps(line) for line in run.history[-1:]])
        return {
            "id": name, "name": name, "displayName": run.about.get("displayName"), "description": None, "notes": None,
            "sweepName": None, "config": "{}", "summaryMetrics": "{}", "wandbConfig": "{}", "tags": [],
            "historyLineCount": len(run.history), "historyTail": tail,
            "eventsLineCount": 0, "eventsTail": "[]", "logLineCount": 0,
        }  # fmt: skip

    def _project(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"id": "P", "name": asked["project"], "entity": {"id": "E", "name": asked.get("entity") or ACCOUNT}}

    def stream(self, name: str, files: dict[str, Any]) -> None:
        """Keep the lines that a run appends to its files."""
        if chunk := files.get("wandb-history.jsonl"):
            run = self.runs[name]
            run.history[chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: WandbServer

    def do_POST(self) -> None:
        if not self.service.is_up:  # on a connection that was kept open
            self.connection.close()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/graphql":
            asked = json.loads(body)
            self._answer(self.service.query(asked["operationName"], asked.get("variables") or {}))
            return
        if self.path.endswith("/file_stream"):
            self.service.stream(self.path.split("/")[-2], json.loads(body).get("files", {}))
        self._answer({})

    def _answer(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""
