"""A Hub on loopback: what the real `huggingface_hub` client asks for when it pushes, lists and downloads models.

    with Hub.running() as hub:
        HfApi(endpoint=hub.url, token=hub.token).create_repo("tester/model")

Repositories live in memory as a list of commits, each with all of its files, so a test can look at every state that a
reader could ever have seen. Large files go through the LFS protocol to a storage under another host name that must not
be shown a token, as on the real Hub. Xet is not spoken (`HF_HUB_DISABLE_XET=1`). `Hub.cuts` breaks transfers half-way.
A gated repository shows its description to all, and its files to those who were granted access.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USER = "tester"
LFS_THRESHOLD = 100_000  # bytes; binary files above it are large ones, as are all .safetensors and .pt
BINARY = (".safetensors", ".pt", ".pth", ".bin")
MODEL = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """What the client compares to skip an unchanged file: sha256 of large files, git's blob hash of others."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    title: str
    files: dict[str, File]
    id: str


@dataclass
class Repository:
    """A model repository with one branch, `main`."""

    name: str
    private: bool
    gated: bool = False
    granted: set[str] = field(default_factory=set)  # tokens
    commits: list[Commit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit("initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n", large=False)})

    def commit(self, title: str, files: dict[str, File]) -> Commit:
        """Make `files` the newest state."""
        text = json.dumps([self.name, title, len(self.commits), sorted((path, f.oid) for path, f in files.items())])
        self.commits.append(Commit(title, files, hashlib.sha1(text.encode()).hexdigest()))
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        """The commit that `main`, or a full commit id, names."""
        if revision == "main":
            return self.commits[-1]
        found = [commit for commit in self.commits if commit.id == revision]
        if not found:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0]

    @property
    def files(self) -> dict[str, bytes]:
        """What a reader sees now, without what the Hub itself puts there."""
        return {path: file.content for path, file in self.commits[-1].files.items() if path != ".gitattributes"}


class Refused(Exception):
    """An answer that the client turns into an exception of its own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Hub:
    """The state behind the server, for tests to prepare and to look at.

    Attributes:
        token: May write to the namespace `tester`.
        reader: A token that may only read.
        repositories: By full name.
        storage: Large files that were uploaded, committed or not, by sha256.
        requests: `METHOD path` of every request, with ` Range` where a part was asked for.
        cuts: How many of the next requests of a kind break: `upload` (the connection closes when half of a large file
            has come), `commit` (it closes when the commit has come, and nothing is committed), `download` (it closes
            when half of a file is sent).
    """

    def __init__(self, url: str) -> None:
        self.url, self.storage_url = url, url.replace("127.0.0.1", "localhost") + "/storage"
        self.token, self.reader = "hf_" + "w" * 34, "hf_" + "r" * 34
        self.repositories: dict[str, Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cuts = {"upload": 0, "commit": 0, "download": 0}
        self.lock = threading.Lock()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Hub]:
        """Serve on a free port of the loopback interface until the block ends."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.hub = cls(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.hub  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            server.server_close()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Variables that turn a process to this Hub, with a cache and a login of its own below `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": token or "",
        }

    def publish(self, name: str, folder: Path, *, gated: bool = False) -> Repository:
        """Put the files of `folder` into the new repository `name`, as if its owner had pushed them."""
        repository = self.repositories[name] = Repository(name, private=False, gated=gated)
        files = dict(repository.commits[-1].files)
        for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
            content = path.read_bytes()
            file = File(content, large=path.name.endswith(BINARY) or len(content) > LFS_THRESHOLD)
            files[path.relative_to(folder).as_posix()] = file
            if file.large:
                self.storage[file.oid] = content
        repository.commit("publish", files)
        return repository

    def holds(self, secret: str) -> bool:
        """Whether `secret` stands in anything that was ever uploaded: contents, paths, commit messages."""
        texts = [*self.storage.values()]
        for repository in self.repositories.values():
            for commit in repository.commits:
                texts.append(commit.title.encode())
                texts += [path.encode() + b"\0" + file.content for path, file in commit.files.items()]
        return any(secret.encode() in text for text in texts)

    def cut(self, kind: str) -> bool:
        """Whether the present request of `kind` is to break."""
        with self.lock:
            if self.cuts[kind] <= 0:
                return False
            self.cuts[kind] -= 1
            return True

    def readable(self, name: str, token: str | None) -> Repository:
        """A repository that exists for whoever holds `token`."""
        repository = self.repositories.get(name)
        if repository is None or (repository.private and token is None):
            raise Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        return repository

    def downloadable(self, name: str, token: str | None) -> Repository:
        """A repository whose files are open to whoever holds `token`."""
        repository = self.readable(name, token)
        if repository.gated and token not in repository.granted:
            advice = "Please log in" if token is None else f"Visit https://huggingface.co/{name} to ask for access"
            raise Refused(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted. {advice}.")
        return repository

    def writable(self, name: str, token: str | None) -> Repository:
        """A repository that `token` may write to."""
        repository = self.readable(name, token)
        self.check_write(name.partition("/")[0], token)
        return repository

    def check_write(self, namespace: str, token: str | None) -> None:
        if token is None:
            raise Refused(401, "", "Invalid username or password.")
        if token != self.token or namespace != USER:
            raise Refused(403, "", f"you don't have the rights to write under the namespace {namespace!r}")


class Handler(BaseHTTPRequestHandler):
    """Routes, one method each; every answer is JSON but for files."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: `Hub.requests` records them."""

    def answer_request(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        part = " Range" if "Range" in self.headers else ""
        self.hub.requests.append(f"{self.command} {unquote(url.path)}{part}")
        try:
            for methods, pattern, handle in ROUTES:
                match = re.fullmatch(pattern, unquote(url.path))
                if match and self.command in methods:
                    handle(self, **match.groupdict())
                    return
            raise Refused(404, "", f"this Hub does not know {self.command} {url.path}")
        except Refused as refused:
            self.rfile_rest()
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            headers["X-Error-Message"] = refused.message
            self.send({"error": refused.message}, refused.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer_request

    # -------------------------------------------------------------------------------------------- in and out

    @property
    def user_token(self) -> str | None:
        """The token of the request, if it brought one.

        Raises:
            Refused: It is not one of ours.
        """
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if given and given not in (self.hub.token, self.hub.reader):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return given or None

    def rfile_rest(self) -> bytes:
        """The request's body, or what is left of it; a body of unknown length comes in chunks."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            del self.headers["Transfer-Encoding"]
            return body
        length = int(self.headers.get("Content-Length", 0))
        del self.headers["Content-Length"]  # read once
        return self.rfile.read(length)

    def json(self) -> Any:
        return json.loads(self.rfile_rest())

    def send(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send_bytes(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------------------------------------------ account

    def whoami(self) -> None:
        token = self.user_token
        if token is None:
            raise Refused(401, "", "Invalid username or password.")
        role = "write" if token == self.hub.token else "read"
        self.send({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def create(self) -> None:
        asked = self.json()
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        self.hub.check_write(name.partition("/")[0], self.user_token)
        known = name in self.hub.repositories
        if not known:
            self.hub.repositories[name] = Repository(name, asked.get("visibility") == "private")
        self.send({"url": f"{self.hub.url}/{name}", "name": name}, 409 if known else 200)

    def validate_yaml(self) -> None:
        head = re.match(r"---\n(.*?)\n---\n", self.json()["content"], re.DOTALL)
        try:
            valid = head is not None and isinstance(yaml.safe_load(head[1]), dict)
        except yaml.YAMLError:
            valid = False
        self.send(
            {"errors": [] if valid else [{"message": "not a YAML header"}], "warnings": []}, 200 if valid else 400
        )

    # ---------------------------------------------------------------------------------------------- uploading

    def preupload(self, repo: str, revision: str) -> None:
        files = self.hub.writable(repo, self.user_token).at(revision).files
        self.send({"files": [self.upload_mode(asked, files) for asked in self.json()["files"]]})

    def upload_mode(self, asked: dict[str, Any], present: dict[str, File]) -> dict[str, Any]:
        path = asked["path"]
        large = path.endswith(BINARY) or asked["size"] > LFS_THRESHOLD
        known = {"oid": present[path].oid} if path in present else {}
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known}

    def lfs_batch(self, repo: str) -> None:
        self.hub.writable(repo, self.user_token)
        objects = self.json()["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.hub.storage:
                wanted["actions"] = {"upload": {"href": f"{self.hub.storage_url}/{wanted['oid']}"}}
        self.send({"transfer": "basic", "objects": objects})

    def check_no_token(self) -> None:
        if "Authorization" in self.headers:
            raise Refused(400, "", "the storage was shown a token")

    def store(self, oid: str) -> None:
        self.check_no_token()
        if self.hub.cut("upload"):
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.hang_up()
            return
        content = self.rfile_rest()
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "", "the content is not what was announced")
        self.hub.storage[oid] = content
        self.send({})

    def commit(self, repo: str, revision: str) -> None:
        repository = self.hub.writable(repo, self.user_token)
        lines = [json.loads(line) for line in self.rfile_rest().splitlines()]
        if self.hub.cut("commit"):
            self.hang_up()
            return
        files = dict(repository.at(revision).files)
        for line in lines[1:]:
            apply_operation(files, line["key"], line["value"], self.hub.storage)
        made = repository.commit(lines[0]["value"]["summary"], files)
        self.send({"commitUrl": f"{self.hub.url}/{repo}/commit/{made.id}", "commitOid": made.id})

    # --------------------------------------------------------------------------------------- listing, download

    def model_info(self, repo: str, revision: str | None = None) -> None:
        repository = self.hub.readable(repo, self.user_token)
        commit = repository.at(revision or "main")
        siblings = [{"rfilename": path, "size": len(file.content)} for path, file in sorted(commit.files.items())]
        described = {"id": repo, "modelId": repo, "sha": commit.id, "private": repository.private, "siblings": siblings}
        described["gated"] = "manual" if repository.gated else False
        self.send({**described, "tags": [], "downloads": 0, "likes": 0})

    def refs(self, repo: str) -> None:
        tip = self.hub.readable(repo, self.user_token).at("main").id
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": tip}
        self.send({"branches": [main], "converts": [], "tags": []})

    def commits(self, repo: str, revision: str) -> None:
        repository = self.hub.readable(repo, self.user_token)
        known = repository.commits[: repository.commits.index(repository.at(revision)) + 1]
        user = {"authors": [{"user": USER}], "date": "2025-01-01T00:00:00.000Z", "message": ""}
        self.send([{"id": commit.id, "title": commit.title, **user} for commit in reversed(known)])

    def auth_check(self, repo: str) -> None:
        self.hub.downloadable(repo, self.user_token)
        self.send({})

    def tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        files = self.hub.readable(repo, self.user_token).at(revision).files
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in files.items() if path.startswith(prefix)}
        if prefix and not inside:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        shown = {p: f for p, f in inside.items() if recursive or "/" not in p.removeprefix(prefix)}
        folders = {prefix + p.removeprefix(prefix).partition("/")[0] for p in inside.keys() - shown.keys()}
        listed = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        self.send(listed + [describe(path, file) for path, file in sorted(shown.items())])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit = self.hub.downloadable(repo, self.user_token).at(revision)
        headers = {"X-Repo-Commit": commit.id}
        file = commit.files.get(path)
        if file is None:
            missing = {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.send({"error": "Entry not found"}, 404, missing)
        elif file.large:
            location = {"Location": f"{self.hub.storage_url}/{file.oid}", "X-Linked-Size": str(len(file.content))}
            self.send_bytes(b"", 302, {**headers, **location, "X-Linked-ETag": f'"{file.oid}"'})
        else:
            self.send_file(file.content, {**headers, "ETag": f'"{file.oid}"'})

    def stored(self, oid: str) -> None:
        self.check_no_token()
        self.send_file(self.hub.storage[oid], {"ETag": f'"{oid}"'})

    def send_file(self, content: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status, body = 200, content
        if asked:
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            status, body = 206, content[start : end + 1]
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
        if self.command == "GET" and self.hub.cut("download"):
            self.send_response(status)
            for name, text in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.hang_up()
            return
        self.send_bytes(body, status, {**headers, "Accept-Ranges": "bytes"})


def apply_operation(files: dict[str, File], key: str, value: dict[str, Any], storage: dict[str, bytes]) -> None:
    """One line of a commit, applied to `files`."""
    path = value["path"]
    if key == "file":
        files[path] = File(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        if value["oid"] not in storage:
            raise Refused(400, "", f"{path}: the large file was not uploaded")
        files[path] = File(storage[value["oid"]], large=True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise Refused(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
    elif key == "deletedFolder":
        for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            del files[name]
    else:
        raise Refused(400, "", f"unknown operation {key}")


def describe(path: str, file: File) -> dict[str, Any]:
    """An entry of a tree."""
    large = {"lfs": {"oid": file.oid, "size": len(file.content), "pointerSize": 134}} if file.large else {}
    return {"type": "file", "path": path, "size": len(file.content), "oid": file.oid[:40], **large}


READ, API = ("GET", "HEAD"), f"/api/models/{MODEL}"
ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (READ, "/api/whoami-v2", Handler.whoami),
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.validate_yaml),
    (("POST",), f"{API}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    (("POST",), f"/{MODEL}.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), "/storage/(?P<oid>[0-9a-f]{64})", Handler.store),
    (("POST",), f"{API}/commit/(?P<revision>[^/]+)", Handler.commit),
    (READ, API, Handler.model_info),
    (READ, f"{API}/revision/(?P<revision>[^/]+)", Handler.model_info),
    (READ, f"{API}/auth-check", Handler.auth_check),
    (READ, f"{API}/refs", Handler.refs),
    (READ, f"{API}/commits/(?P<revision>[^/]+)", Handler.commits),
    (READ, f"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Handler.tree),
    (READ, f"/{MODEL}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
    (READ, "/storage/(?P<oid>[0-9a-f]{64})", Handler.stored),
]
