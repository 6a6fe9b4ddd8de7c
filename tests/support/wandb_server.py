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


@dataclass
class LoggedArtifact:
    """One version of an artifact."""

    name: str
    type: str
    aliases: list[str]
    metadata: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    used_by: list[str] = field(default_factory=list)
    is_committed: bool = False


class WandbServer:
    """The service; it answers inside the context. Another context on the same port continues the same runs."""

    def __init__(self) -> None:
        self.port = free_port()
        self.runs: dict[str, LoggedRun] = {}
        self.refused: set[str] = set()
        self.artifacts: list[LoggedArtifact] = []
        self._server: ThreadingHTTPServer | None = None

    @property
    def account(self) -> dict[str, str]:
        """Environment variables of somebody who has logged in."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.port}", "WANDB_API_KEY": KEY}

    def start(self) -> WandbServer:
        self._server = _QuietServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"service": self}))
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
        answers = {
            "Viewer": self._viewer,
            "RunResumeStatus": self._run,
            "UpsertBucket": self._upsert_run,
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "ArtifactByID": self._artifact,
            "CreateArtifact": self._create_artifact,
            "UseArtifact": self._use_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_files,
            "CommitArtifact": self._commit_artifact,
        }
        if operation in self.refused or operation not in answers:
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

    def _create_artifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        about = asked["input"]
        aliases = [alias["alias"] for alias in about["aliases"]]
        metadata = json.loads(about["metadata"] or "{}")
        made = LoggedArtifact(about["artifactCollectionName"], about["artifactTypeName"], aliases, metadata)
        self.artifacts.append(made)
        answer = {"id": str(len(self.artifacts) - 1), "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": answer}}

    def _artifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        known = self.artifacts[int(asked["id"])]
        project = self._project({"project": "p"}) | {"internalId": "P"}
        answer = {
            "__typename": "Artifact", "id": asked["id"], "versionIndex": 0, "artifactType": {"name": known.type},
            "artifactSequence": {"__typename": "ArtifactSequence", "name": known.name, "project": project},
            "metadata": json.dumps(known.metadata), "state": "COMMITTED", "size": 0, "digest": "D", "commitHash": "C",
            "fileCount": 0, "createdAt": "2026-01-01T00:00:00", "updatedAt": None, "description": None,
            "ttlDurationSeconds": 0, "ttlIsInherited": True, "tags": [], "historyStep": None, "aliases": [],
        }  # fmt: skip
        return {"artifact": answer}

    def _use_artifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        number = asked.get("artifactID") or asked["input"]["artifactID"]
        self.artifacts[int(number)].used_by.append(asked.get("runName") or asked["input"]["runName"])
        return {"useArtifact": {"artifact": {"id": number}}}

    def _create_manifest(self, asked: dict[str, Any]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/put/{asked['artifactID']}/manifest"
        file = {"id": "F", "name": "manifest", "displayName": "manifest", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}}

    def _create_files(self, asked: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for spec in asked["input"]["artifactFiles"]:
            url = f"http://127.0.0.1:{self.port}/put/{spec['artifactID']}/{spec['name']}"
            file = {"id": "F", "name": spec["name"], "displayName": spec["name"], "uploadUrl": url, "uploadHeaders": []}
            artifact = {"id": spec["artifactID"]}
            nodes.append({"node": {**file, "storagePath": None, "uploadMultipartUrls": None, "artifact": artifact}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _commit_artifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[int(asked["artifactID"])].is_committed = True
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "D"}}}

    def put(self, path: str, content: bytes) -> None:
        """Keep a file of an artifact, by its path /put/ARTIFACT/NAME."""
        _, _, number, name = path.split("/", 3)
        self.artifacts[int(number)].files[name] = content

    def stream(self, name: str, files: dict[str, Any]) -> None:
        """Keep the lines that a run appends to its files."""
        if chunk := files.get("wandb-history.jsonl"):
            run = self.runs[name]
            run.history[chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Print nothing: clients are killed."""


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
            operation = asked.get("operationName") or asked["query"].split("(")[0].split()[-1]
            self._answer(self.service.query(operation, asked.get("variables") or {}))
            return
        if self.path.endswith("/file_stream"):
            self.service.stream(self.path.split("/")[-2], json.loads(body).get("files", {}))
        self._answer({})

    def do_PUT(self) -> None:
        self.service.put(self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
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
