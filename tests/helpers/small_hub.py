"""A Hugging Face hub on this machine: repositories, commits and uploads of large files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKENS = {"hf_writes": True, "hf_reads": False}
"""Whether a token of the user `me` may write."""


class SmallHub:
    """Answers the calls of `huggingface_hub` that make a repository and commit to it.

    large: files of at least this many bytes are uploaded by the LFS protocol.
    refuse: path (regular expression) -> status of the answer; silent: answers nothing at all.
    private, files: visibility and content of the repositories, by `datasets/me/name`.
    """

    def __init__(self, *, large=10**9):
        self.large, self.silent, self.refuse = large, False, {}
        self.private, self.files, self.commits, self.blobs = {}, {}, [], {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                if hub.silent:
                    time.sleep(30)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, answer = hub.answer(self.command, self.path.split("?")[0], token, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = handle_one

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method, path, token, body):
        """Status and JSON of the answer to a request."""
        for pattern, status in self.refuse.items():
            if re.search(pattern, path):
                return status, {"error": "refused"}
        if found := re.fullmatch(r"/blobs/(\w+)", path):  # an address with its own right
            self.blobs[found[1]] = body
            return 200, {}
        if token not in TOKENS:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if found := re.fullmatch(r"/(?:(datasets)/)?([\w-]+/[\w-]+).git/info/lfs/.*", path):
            return 200, self._large(json.loads(body))
        found = re.fullmatch(r"/api/(models|datasets)/([\w-]+/[\w-]+)(?:/(\w+)/main)?", path)
        name, what = f"{found[1]}/{found[2]}", found[3]
        if name not in self.files:
            return 404, {"error": "Repository not found"}
        if what == "preupload":
            return 200, {"files": [self._mode(one) for one in json.loads(body)["files"]]}
        if what == "commit":
            return self._commit(name, [json.loads(line) for line in body.splitlines()], token)
        return 200, {"id": found[2], "private": self.private[name], "siblings": []}

    def _create(self, asked, token):
        user, kind = asked["organization"], asked.get("type", "model")
        name = f"{kind}s/{user}/{asked['name']}"
        path = f"{'datasets/' if kind == 'dataset' else ''}{user}/{asked['name']}"
        address = {"url": f"{self.url}/{path}"}
        if user != "me" or not TOKENS[token]:
            return 403, {"error": "You don't have the rights to create this"}
        if name in self.files:
            return 409, address | {"error": "You already created this repo"}
        self.files[name] = {}
        self.private[name] = asked.get("visibility") == "private" or asked.get("private", False)
        return 200, address

    def _mode(self, file):
        mode = "lfs" if file["size"] >= self.large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _large(self, asked):
        objects = [
            one | {"actions": {"upload": {"href": f"{self.url}/blobs/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name, lines, token):
        if not TOKENS[token]:
            return 403, {"error": "no right to write"}
        new = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                new[value["path"]] = self.blobs[value["oid"]]
                assert hashlib.sha256(new[value["path"]]).hexdigest() == value["oid"]
        self.files[name] |= new
        self.commits.append((name, sorted(new)))
        commit = f"{len(self.commits):040x}"
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit}
