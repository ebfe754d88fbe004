"""Settings of all tests, a small run, and an object store."""

import http.client
import http.server
import os
import re
import secrets
import threading

import pytest
from hypothesis import settings

# Before torch is loaded. Its threads wait for each other in busy loops, which is many times slower
# where other processes want the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline per example, since the machine may be busy: pytest's own timeout is the limit.
settings.register_profile("minirec", deadline=None)
settings.load_profile("minirec")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Directory of a small run that nothing interrupted; not to be changed."""
    from helpers.small import finish

    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run_dir)
    return run_dir


@pytest.fixture(scope="session")
def with_prior(tmp_path_factory):
    """A finished run with a collaborative prior, see `helpers.finished_run`; not to be changed."""
    from helpers.finished_run import finish_in_process

    run_dir = tmp_path_factory.mktemp("with_prior") / "run"
    return finish_in_process(run_dir, "model.prior=shortcut").root


@pytest.fixture(scope="session")
def object_store(tmp_path_factory):
    """A client of boto3 for an S3-compatible server on this machine; this process uses it too."""
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "MINIREC_CACHE": str(tmp_path_factory.mktemp("cache")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        yield boto3.client("s3")
    running.stop()


class Gate:
    """A proxy before the object store that refuses the requests that it is told to."""

    def __init__(self, store: str):
        gate = self
        gate.refused, gate.rule = 0, None

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, answer = gate.answer(self.command, self.path)
                if status is None:
                    client = http.client.HTTPConnection(store.removeprefix("http://"), timeout=60)
                    client.request(self.command, self.path, body, dict(self.headers))
                    response = client.getresponse()
                    status, headers, answer = response.status, response.headers, response.read()
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else len(answer)
                self.send_header("Content-Length", str(length or 0))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def refuse(self, method, pattern, *, times=10**9, status=403):
        """Refuse the next requests of a method whose address matches."""
        self.refused, self.rule = 0, (method, re.compile(pattern), times, status)

    def answer(self, method, address):
        """Status, headers and body for a refused request, else None as status."""
        if self.rule is None:
            return None, {}, b""
        wanted, pattern, times, status = self.rule
        if method != wanted or self.refused >= times or not pattern.search(address.split("?")[0]):
            return None, {}, b""
        self.refused += 1
        code = {403: "AccessDenied", 503: "ServiceUnavailable"}[status]
        xml = f"<Error><Code>{code}</Code><Message>Access Denied</Message></Error>"
        return status, {"Content-Type": "application/xml"}, xml.encode()


@pytest.fixture
def gate(object_store, monkeypatch):
    """The object store behind a proxy that can refuse requests; all requests go through it."""
    from s3fs import S3FileSystem

    gate = Gate(os.environ["AWS_ENDPOINT_URL"])
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", gate.url)
        S3FileSystem.clear_instance_cache()  # they keep the address that they began with
        yield gate
    S3FileSystem.clear_instance_cache()
    gate.server.shutdown()
    gate.server.server_close()


@pytest.fixture
def bucket_folder(object_store):
    """Address of a folder in a bucket of its own."""
    name = f"bucket-{secrets.token_hex(4)}"
    object_store.create_bucket(Bucket=name)
    return f"s3://{name}/runs/a"


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """A folder that is not there yet: a local path, or one on an object store."""
    from minirec.store.remote import located

    if request.param == "local":
        return tmp_path / "runs" / "a"
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    return located(request.getfixturevalue("bucket_folder"))
