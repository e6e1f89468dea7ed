"""A Hugging Face hub on this machine: the part of its protocol that downloads and uploads of models use.

Real HTTP on the loopback, with switches for what goes wrong in the world: cut connections, changed bytes, refusals,
slow lines. `hub_server()` gives a running one; `hub_environment` is what points a process at it.
"""

import base64
import hashlib
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

# What is kept beside the repository and served from another host, under its checksum.
LARGE = (".safetensors", ".bin", ".pth", ".onnx")


@dataclass
class Repo:
    """A repository: the files of each of its commits, and which commit a branch is at."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Make `files` the content of a branch."""
        text = repr((sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()), len(self.commits)))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        sha = self.refs.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass(frozen=True)
class Request:
    """A request the server got."""

    method: str
    host: str
    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        """First byte asked for by a range, 0 without one."""
        value = self.headers.get("range", "bytes=0-")
        return int(value.removeprefix("bytes=").partition("-")[0])


@dataclass
class FakeHub:
    """State of the server; everything may be changed while it runs.

    Attributes:
        url: its address, for HF_ENDPOINT.
        repos: OWNER/NAME -> repository.
        readers: tokens that may read gated and private repositories.
        writers: tokens that may write.
        log: all requests but those for the library's own statistics.
        cut_after: bytes of a large file after which the connection is cut, None for never.
        cuts: how many connections are still cut; -1 for all.
        corrupt: whether a byte of every large file is changed on the way.
        wrong_etag: checksum to state for large files in place of theirs.
        chunk_seconds: pause after each 64 KiB of a large file.
        fail: statuses to answer the next requests with.
        ranges: whether ranges are honoured.
        moved: old -> new name of renamed repositories.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    writers: set[str] = field(default_factory=set)
    log: list[Request] = field(default_factory=list)
    cut_after: int | None = None
    cuts: int = -1
    corrupt: bool = False
    wrong_etag: str | None = None
    chunk_seconds: float = 0.0
    fail: list[int] = field(default_factory=list)
    ranges: bool = True
    moved: dict[str, str] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, files: dict[str, bytes], **facts: Any) -> str:
        """Publish files; returns the commit."""
        repo = self.repos.setdefault(name, Repo())
        for key, value in facts.items():
            setattr(repo, key, value)
        return repo.commit(files)

    def asked(self, part: str = "", method: str | None = None) -> list[Request]:
        """Requests whose path holds `part`."""
        return [r for r in self.log if part in r.path and method in (None, r.method)]


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.handle_request()

    def do_GET(self) -> None:
        self.handle_request()

    def do_POST(self) -> None:
        self.handle_request()

    def do_PUT(self) -> None:
        self.handle_request()

    def handle_request(self) -> None:
        hub = self.server.hub
        self.body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("transfer-encoding") == "chunked":
            self.body = self.read_chunks()
        # As a proxy the server is given whole addresses, of whatever host.
        address = urlsplit(self.path)
        path = unquote(address.path)
        if path == "/api/agent-harnesses":
            return self.reply(404)
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.asked = Request(self.command, address.netloc or headers.get("host", ""), path, headers)
        hub.log.append(self.asked)
        if hub.fail:
            return self.reply(hub.fail.pop(0))
        if path.startswith("/cdn/"):
            return self.send_large(hub.stored[path.removeprefix("/cdn/")])
        if path.startswith("/api/") or path.endswith("/info/lfs/objects/batch") or path.startswith("/upload/"):
            return self.api(path)
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, filename = rest.partition("/")
        return self.resolve(name, revision, filename)

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # --- reading ---

    def token(self) -> str:
        return (self.headers.get("authorization") or "").removeprefix("Bearer ")

    def find(self, name: str) -> Repo | None:
        """The repository, or None after an answer that refuses it as the hub does."""
        hub = self.server.hub
        repo = hub.repos.get(name)
        if repo is None or (repo.private and self.token() not in hub.readers):
            # Without a token the hub does not say whether a repository is missing or private.
            self.error(404 if self.token() else 401, "RepoNotFound", "Repository not found")
            return None
        return repo

    def resolve(self, name: str, revision: str, filename: str) -> None:
        hub = self.server.hub
        if name in hub.moved:
            return self.reply(307, {"Location": f"/{hub.moved[name]}/resolve/{revision}/{filename}"})
        repo = self.find(name)
        if repo is None:
            return None
        commit = repo.resolve(revision)
        if commit is None:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if repo.gated and self.token() not in hub.readers:
            return self.error(403 if self.token() else 401, "GatedRepo", "Access to this model is restricted")
        data = repo.commits[commit].get(filename)
        if data is None:
            return self.error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not filename.endswith(LARGE):
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self.reply(200, {**headers, "ETag": f'"{blob}"'}, data)
        digest = hashlib.sha256(data).hexdigest()
        hub.stored[digest] = data
        linked = {"X-Linked-Etag": f'"{hub.wrong_etag or digest}"', "X-Linked-Size": str(len(data))}
        # By another name for the same machine, which makes it another host to the client.
        location = f"http://localhost:{self.server.server_port}/cdn/{digest}"
        return self.reply(302, {**headers, **linked, "ETag": f'"{digest[:32]}"', "Location": location})

    def send_large(self, data: bytes) -> None:
        hub = self.server.hub
        if hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = self.asked.start if hub.ranges else 0
        if start >= len(data):
            return self.reply(416, {"Content-Range": f"bytes */{len(data)}"})
        status = 206 if start else 200
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return None
        end = len(data)
        if hub.cut_after is not None and hub.cuts != 0:
            end, hub.cuts = min(end, start + hub.cut_after), hub.cuts - 1
        for position in range(start, end, 1 << 16):
            self.wfile.write(data[position : min(position + (1 << 16), end)])
            self.wfile.flush()
            time.sleep(hub.chunk_seconds)
        if end < len(data):
            self.close_connection = True
        return None

    # --- the interface for programs ---

    def api(self, path: str) -> None:
        hub = self.server.hub
        if path.startswith("/upload/"):
            if hashlib.sha256(self.body).hexdigest() != path.removeprefix("/upload/"):
                return self.reply(400)
            hub.stored[path.removeprefix("/upload/")] = self.body
            return self.reply(200)
        if self.command == "POST" and self.token() not in hub.writers:
            return self.error(401, None, "Invalid username or password.")
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(self.body)
            name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            if name in hub.repos:
                return self.error(409, None, "You already created this model repo", {}, {"url": f"{hub.url}/{name}"})
            # A new repository is private from its first moment on.
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            hub.repos[name] = Repo(private=private)
            hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
            return self.json({"url": f"{hub.url}/{name}"})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(self.body)["objects"]
            replies = [
                {**wanted, "actions": {"upload": {"href": f"{hub.url}/upload/{wanted['oid']}"}}} for wanted in objects
            ]
            return self.json({"transfer": "basic", "objects": replies})
        name, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            files = json.loads(self.body)["files"]
            return self.json({"files": [self.mode(entry["path"]) for entry in files]})
        name, _, rest = path.removeprefix("/api/models/").partition("/commit/")
        if rest:
            return self.take_commit(name, rest)
        name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        return self.info(name, revision or "main")

    def mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}

    def info(self, name: str, revision: str) -> None:
        hub = self.server.hub
        if name in hub.moved:
            return self.reply(307, {"Location": f"/api/models/{hub.moved[name]}/revision/{revision}"})
        repo = self.find(name)
        if repo is None:
            return None
        commit = repo.resolve(revision)
        if commit is None:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = [{"rfilename": filename} for filename in sorted(repo.commits[commit])]
        return self.json({"id": name, "sha": commit, "siblings": siblings, "gated": repo.gated, "tags": []})

    def take_commit(self, name: str, branch: str) -> None:
        hub = self.server.hub
        repo = hub.repos[name]
        files = dict(repo.commits[repo.refs[branch]])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = hub.stored[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files, branch)
        self.json({"success": True, "commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha, "hookOutput": ""})

    # --- answers ---

    def reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.reply(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def error(
        self,
        status: int,
        code: str | None,
        message: str,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        given = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self.json({"error": message, **(more or {})}, status, given)


class Server(ThreadingHTTPServer):
    """The server, with its state."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = FakeHub(url=f"http://127.0.0.1:{self.server_port}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a client has gone away, as interrupted downloads do."""


@contextmanager
def hub_server() -> Iterator[FakeHub]:
    """Run a hub on the loopback."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(url: str, home: Path) -> dict[str, str]:
    """Environment variables that point a process at a hub, with its own cache and no token but what a test gives it."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Uploads by the older protocol, which the server speaks.
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


@contextmanager
def using_hub(url: str, home: Path, **variables: str) -> Iterator[None]:
    """Point this process at a hub; what the library reads only when it is imported is set in its constants."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    dropped = ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
    with (
        warnings.catch_warnings(),
        mock.patch.dict("os.environ", {**hub_environment(url, home), **variables}),
        mock.patch.object(constants, "HF_TOKEN_PATH", str(home / "token")),
        mock.patch.object(constants, "HF_HUB_DISABLE_TELEMETRY", True),
        mock.patch.object(constants, "HF_HUB_DISABLE_XET", True),
    ):
        for name in dropped:
            if name not in variables:
                os.environ.pop(name, None)
        close_session()
        # The library's own, where it uploads by the older protocol.
        warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
        try:
            yield
        finally:
            close_session()
