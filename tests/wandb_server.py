"""A stand-in for W&B's server: it stores the history lines of runs that `wandb sync` and online runs send."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "P", "name": "near", "entity": {"id": "E", "name": "me"}}
VIEWER = {"id": "U", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}


class Server(ThreadingHTTPServer):
    """`runs`: history lines by run id; `upserted`: the variables that describe runs; `artifacts`: names."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, list[dict]] = {}
        self.upserted: list[dict] = []
        self.artifacts: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def query(self, name: str, variables: dict) -> dict:
        run = variables.get("name")
        if "iewer" in name:
            return {"viewer": VIEWER}
        if name == "RunResumeStatus":
            return {"model": {**PROJECT, "bucket": self._bucket(run)} if run in self.runs else None}
        if name == "UpsertBucket":
            self.upserted.append(variables)
            inserted = run not in self.runs
            self.runs.setdefault(run, [])
            return {"upsertBucket": {"bucket": {**self._bucket(run), "project": PROJECT}, "inserted": inserted}}
        if name == "CreateArtifact":  # as if its files were uploaded already
            self.artifacts.append(variables["input"]["artifactCollectionName"])
            artifact = {"id": "A", "state": "COMMITTED", "artifactSequence": {"id": "S", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if name == "CreateRunFiles":
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": []}}
        return {"serverInfo": {"features": []}} if name == "ServerFeaturesQuery" else {}

    def _bucket(self, run: str) -> dict:
        lines = self.runs.get(run, [])
        bucket = {"id": f"B-{run}", "name": run, "displayName": run, "config": "{}", "tags": [], "sweepName": None}
        bucket |= {"historyLineCount": len(lines), "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}
        bucket |= {"historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]), "wandbConfig": '{"t": 1}'}
        return {**bucket, "summaryMetrics": json.dumps(lines[-1] if lines else {})}

    def stream(self, run: str, files: dict) -> None:
        if history := files.get("wandb-history.jsonl"):
            self.runs[run][history["offset"] :] = [json.loads(line) for line in history["content"]]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer({})

    def do_PUT(self):
        self._read()
        self._answer({})

    def do_POST(self):
        body = self._read()
        request = json.loads(body) if body.startswith(b"{") else {}
        if "query" in request:
            name = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            self._answer({"data": self.server.query(name.group(1) if name else "", request.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], request.get("files") or {})
        self._answer({})

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _answer(self, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
