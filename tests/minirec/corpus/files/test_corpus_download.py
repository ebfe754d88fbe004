"""Downloads from a local server: complete, resumed, changed, refused."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minirec.corpus.files.download import download_category, fetch
from minirec.errors import CorpusError

BODY = bytes(range(256)) * 8192  # 2 MiB


class Server(ThreadingHTTPServer):
    """Serves `body` with ranges; `cut` ends the next answer after this number of bytes."""

    body = BODY
    etag = '"one"'
    cut: int | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if "Al_Beauty" in self.path:
            self.send_error(404)
            return
        body, start = self.server.body, 0
        if wanted and self.headers.get("If-Range") == self.server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut, self.server.cut = self.server.cut, None
        self.wfile.write(body[start : start + cut] if cut else body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def url(server, path="file.gz"):
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_a_category_is_two_files_fetched_once(server, tmp_path):
    for _ in range(2):
        paths = download_category("All Beauty", tmp_path, base_url=url(server, "base"))
    assert [p.name for p in paths] == ["All_Beauty.csv.gz", "meta_All_Beauty.jsonl.gz"]
    assert all(p.read_bytes() == BODY for p in paths)
    assert [path for path, _ in server.asked] == [
        "/base/benchmark/0core/rating_only/All_Beauty.csv.gz",
        "/base/raw/meta_categories/meta_All_Beauty.jsonl.gz",
    ]
    record = json.loads((tmp_path / "All_Beauty.csv.gz.json").read_text())
    assert record["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert record["bytes"] == len(BODY)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".gz", ".gz", ".json", ".json"]


def test_the_5core_is_another_file_beside_it(server, tmp_path):
    base = url(server, "base")
    download_category("All_Beauty", tmp_path, base_url=base)
    ratings, _ = download_category("All_Beauty", tmp_path, core="5core", base_url=base)
    assert ratings.name == "All_Beauty.5core.csv.gz"
    assert server.asked[-1][0] == "/base/benchmark/5core/rating_only/All_Beauty.csv.gz"


def test_a_broken_download_resumes(server, tmp_path):
    server.cut = 700_000
    with pytest.raises(CorpusError, match="run the same command again to resume"):
        fetch(url(server), tmp_path / "f.gz")
    assert not (tmp_path / "f.gz").exists()
    assert (tmp_path / "f.gz.part").stat().st_size == 700_000
    fetch(url(server), tmp_path / "f.gz")
    assert server.asked[-1][1] == "bytes=700000-"
    assert (tmp_path / "f.gz").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_starts_over(server, tmp_path):
    server.cut = 700_000
    with pytest.raises(CorpusError):
        fetch(url(server), tmp_path / "f.gz")
    server.body, server.etag = BODY[::-1], '"two"'
    fetch(url(server), tmp_path / "f.gz")
    assert (tmp_path / "f.gz").read_bytes() == BODY[::-1]


def test_stopped_between_last_byte_and_renaming(server, tmp_path):
    (tmp_path / "f.gz.part").write_bytes(BODY)
    (tmp_path / "f.gz.part.json").write_text(json.dumps({"version": '"one"'}))
    assert fetch(url(server), tmp_path / "f.gz").read_bytes() == BODY


def test_a_file_that_differs_from_its_record(server, tmp_path):
    path = fetch(url(server), tmp_path / "f.gz")
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(CorpusError, match="differs from its recorded checksum.*delete it"):
        fetch(url(server), path)


def test_a_file_of_the_user_is_kept(server, tmp_path):
    (tmp_path / "f.gz").write_bytes(b"mine")
    assert fetch(url(server), tmp_path / "f.gz").read_bytes() == b"mine"
    assert server.asked == []


def test_unknown_category(server, tmp_path):
    with pytest.raises(CorpusError, match="no category Al_Beauty.*did you mean All_Beauty"):
        download_category("Al_Beauty", tmp_path, base_url=url(server, "base"))
    with pytest.raises(CorpusError, match="is not a category"):
        download_category("../etc", tmp_path, base_url=url(server, "base"))


def test_no_server(tmp_path):
    server = Server()
    gone = url(server)
    server.server_close()
    with pytest.raises(CorpusError, match="broke off .*refused"):
        fetch(gone, tmp_path / "f.gz")
