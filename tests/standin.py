"""A stand-in of the hub on loopback: the endpoints that huggingface_hub calls to publish and to fetch a model.

It keeps repositories as {path: bytes} with one commit each push, checks what it is sent (token, sizes, sha256 of large
files), and answers errors as the hub does.
"""

import base64
import hashlib
import json
import threading
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TOKEN = "hf_standin"
LARGE = (".safetensors", ".png")


class Hub(ThreadingHTTPServer):
    """Its state: `repos[id][revision]` is {path: bytes}; `private` names; `stored` large files; `requests` in order."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.down = False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve():
    """A running hub."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def blob_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments):
        self.server.requests.append(f"{self.command} {urlsplit(self.path).path}")

    def answer(self, value=None, status=200, body=b"", **headers):
        body = body if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def files(self, repo, revision):
        """The files of a revision, or None after an error has been answered."""
        if repo not in self.server.repos or (repo in self.server.private and not self.may):
            self.answer({"error": "Repository not found"}, 404 if self.may else 401, X_Error_Code="RepoNotFound")
            return None
        commits = self.server.repos[repo]
        found = commits.get(next(reversed(commits), "") if revision == "main" else revision)
        if found is None and commits:
            self.answer({"error": "Revision not found"}, 404, X_Error_Code="RevisionNotFound")
        return found

    def do_GET(self):
        if self.server.down:
            return self.answer({"error": "maintenance"}, 503)
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, rest = "/".join(parts[2:4]), parts[4:]
            revision = rest[1] if rest else "main"
            files = self.files(repo, revision)
            if files is None:
                return None
            if rest[:1] == ["tree"]:
                return self.answer([self.entry(path, content) for path, content in files.items()])
            sha = next(s for s, f in self.server.repos[repo].items() if f is files)
            return self.answer({"id": repo, "sha": sha, "siblings": [{"rfilename": path} for path in files]})
        if len(parts) < 5:  # what newer versions ask to say more of a refusal
            return self.answer({"error": "Not found"}, 404)
        repo, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        files = self.files(repo, revision)
        if files is None:
            return None
        if path not in files:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        content = files[path]
        large = path.endswith(LARGE)
        etag = hashlib.sha256(content).hexdigest() if large else blob_id(content)
        return self.answer(body=content, ETag=f'"{etag}"', X_Repo_Commit=revision)

    do_HEAD = do_GET

    def entry(self, path, content):
        large = path.endswith(LARGE)
        lfs = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
        return {"type": "file", "path": path, "size": len(content), "oid": blob_id(content), **(lfs if large else {})}

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if hashlib.sha256(content).hexdigest() != self.path.rpartition("/")[2]:
            return self.answer({"error": "another sha256"}, 400)
        self.server.stored[self.path.rpartition("/")[2]] = content
        return self.answer({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.down:
            return self.answer({"error": "maintenance"}, 503)
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if not self.may:
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path.endswith("/objects/batch"):
            objects = [
                {**o, "actions": {k: {"href": f"{self.server.endpoint}/{k}/{o['oid']}"} for k in ("upload", "verify")}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if path.startswith("/verify/"):
            wanted = json.loads(body)
            sound = len(self.server.stored.get(wanted["oid"], b"")) == wanted["size"]
            return self.answer({}, 200 if sound else 404)
        repo, what = "/".join(path.split("/")[3:5]), path.split("/")[5]
        if what == "preupload":
            files = [f["path"] for f in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            rows = [{"path": p, "uploadMode": modes[p.endswith(LARGE)], "shouldIgnore": False} for p in files]
            return self.answer({"files": rows})
        return self.commit(repo, [json.loads(line) for line in body.splitlines()])

    def create(self, wanted):
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.server.repos:
            url = f"{self.server.endpoint}/{repo}"
            return self.answer({"error": "You already created this model repo", "url": url}, 409)
        self.server.repos[repo] = {}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.server.private.add(repo)
        return self.answer({"url": f"{self.server.endpoint}/{repo}"})

    def commit(self, repo, lines):
        commits = self.server.repos[repo]
        files = dict(next(reversed(commits.values()), {}))
        rows = defaultdict(list)
        for line in lines:
            rows[line["key"]].append(line["value"])
        files |= {f["path"]: base64.b64decode(f["content"]) for f in rows["file"]}
        files |= {f["path"]: self.server.stored[f["oid"]] for f in rows["lfsFile"]}
        sha = hashlib.sha1(str(len(commits)).encode() + repo.encode()).hexdigest()
        commits[sha] = files
        return self.answer({"commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}", "commitOid": sha})
