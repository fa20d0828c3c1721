"""A server on this machine that stands in for a judge."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tenacity

import near.models.server


class _Chat(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        status, reply = self.server.say(body, len(self.server.requests))
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def chat(text: str) -> dict:
    return {"choices": [{"message": {"content": text}}]}


@pytest.fixture()
def serve(monkeypatch):
    """A function that starts a server which answers with `say(body, number of requests)`, and returns the server and
    its part of a configuration."""
    monkeypatch.setenv("JUDGE_API_KEY", "a-key")
    monkeypatch.setattr(near.models.server, "WAIT", tenacity.wait_none())
    servers = []

    def make(say):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Chat)
        server.say, server.requests = say, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        address = {"url": f"http://127.0.0.1:{server.server_address[1]}/v1", "model": "wise"}
        return server, {**address, "api_key_env": "JUDGE_API_KEY", "concurrency": 2, "retries": 2, "timeout": 5}

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()
