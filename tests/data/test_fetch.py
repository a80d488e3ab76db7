import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from neocog.data.fetch import fetch
from neocog.errors import FetchError, UsageError

BODY = bytes(range(256)) * 400
MD5 = hashlib.md5(BODY).hexdigest()


class Server:
    """A server on loopback that can cut connections, ignore Range, or answer with an error."""

    def __init__(self):
        self.ranges, self.cuts, self.errors = [], [], []
        self.honours_range = self.tells_length = True
        self.body = BODY
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                if outer.errors:
                    self.send_error(outer.errors.pop(0))
                    return
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and outer.honours_range else 0
                if start >= len(outer.body):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(outer.body) - 1}/{len(outer.body)}")
                if outer.tells_length:
                    self.send_header("Content-Length", str(len(outer.body) - start))
                self.end_headers()
                end = start + outer.cuts.pop(0) if outer.cuts else len(outer.body)
                self.wfile.write(outer.body[start:end])
                self.close_connection = True

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/set.tar.gz"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("NEOCOG_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server()
    yield one
    one.close()


def get(server, target, **options):
    said = []
    options = {"size": len(BODY), "md5": MD5, "say": said.append, "wait": 0.001, **options}
    return fetch(server.url, target, **options), said


def test_says_what_from_where_and_how_large_then_verifies(server, tmp_path):
    path, said = get(server, tmp_path / "new" / "set.tar.gz")
    assert path.read_bytes() == BODY and [one.name for one in path.parent.iterdir()] == ["set.tar.gz"]
    assert len(said) == 1 and "set.tar.gz" in said[0] and server.url in said[0] and "102.4 kB" in said[0]


def test_unknown_size_is_asked_and_told(server, tmp_path):
    _, said = get(server, tmp_path / "a", size=None)
    assert "102.4 kB" in said[0]
    server.tells_length = False
    path, said = get(server, tmp_path / "b", size=None)
    assert path.read_bytes() == BODY and "size unknown" in said[0]


def test_a_file_that_is_there_is_not_fetched_again_unless_it_is_damaged(server, tmp_path):
    target = tmp_path / "x"
    get(server, target)
    _, said = get(server, target, offline=True)
    assert said == [] and len(server.ranges) == 1
    target.write_bytes(BODY[:-1])
    get(server, target)
    assert target.read_bytes() == BODY and len(server.ranges) == 2


def test_cut_connections_are_resumed_where_they_stopped(server, tmp_path):
    server.cuts = [30_000, 40_000]
    path, said = get(server, tmp_path / "x")
    assert path.read_bytes() == BODY
    assert server.ranges == [None, "bytes=30000-", "bytes=70000-"]
    assert sum("trying again" in line for line in said) == 2


def test_a_cut_without_content_length_is_seen_by_the_expected_size(server, tmp_path):
    server.tells_length, server.cuts = False, [50_000]
    path, _ = get(server, tmp_path / "x")
    assert path.read_bytes() == BODY and server.ranges == [None, "bytes=50000-"]


def test_giving_up_keeps_what_came_and_the_next_call_goes_on(server, tmp_path):
    server.cuts = [1000, *[0] * 10]
    with pytest.raises(FetchError, match="repeat the command to continue"):
        get(server, tmp_path / "x", tries=3)
    assert not (tmp_path / "x").exists() and (tmp_path / "x.part").read_bytes() == BODY[:1000]
    server.cuts, server.ranges = [], []
    path, said = get(server, tmp_path / "x")
    assert path.read_bytes() == BODY and server.ranges == ["bytes=1000-"] and "already here" in said[0]
    assert not (tmp_path / "x.part").exists()


def test_a_server_without_range_starts_again(server, tmp_path):
    server.honours_range, server.cuts = False, [30_000]
    path, _ = get(server, tmp_path / "x")
    assert path.read_bytes() == BODY and server.ranges == [None, "bytes=30000-"]


def test_a_part_that_is_whole_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "x.part").write_bytes(BODY)
    path, _ = get(server, tmp_path / "x", size=None)
    assert path.read_bytes() == BODY
    (tmp_path / "y.part").write_bytes(BODY + b"too long")
    path, _ = get(server, tmp_path / "y")
    assert path.read_bytes() == BODY


def test_a_wrong_checksum_removes_the_file_and_shows_both_sums(server, tmp_path):
    wrong = "0" * 32
    with pytest.raises(FetchError, match=rf"expected md5 {wrong}, got {MD5}.*removed"):
        get(server, tmp_path / "x", md5=wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_refused(server, tmp_path):
    server.body = BODY + b"more"
    with pytest.raises(FetchError, match=f"expected {len(BODY)} bytes"):
        get(server, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_forbids_and_says_what_to_do(server, tmp_path, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("NEOCOG_OFFLINE", "1")
    with pytest.raises(FetchError, match=r"forbidden \(--offline.*copy http://127.0.0.1.* to "):
        get(server, tmp_path / "x", offline=how == "argument")
    assert server.ranges == [] and list(tmp_path.iterdir()) == []


def test_a_server_error_is_tried_again_but_not_found_is_not(server, tmp_path):
    server.errors = [503, 500]
    path, _ = get(server, tmp_path / "x")
    assert path.read_bytes() == BODY and len(server.ranges) == 3
    server.errors = [404]
    with pytest.raises(FetchError, match="404"):
        get(server, tmp_path / "y")
    assert len(server.ranges) == 4


def test_no_server_and_no_http(tmp_path, server):
    url = server.url
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(FetchError, match="no connection"):
        fetch(url, tmp_path / "x", say=lambda _: None, tries=2, wait=0.001)
    with pytest.raises(UsageError, match="http or https"):
        fetch("file:///etc/hostname", tmp_path / "x")


def test_a_folder_that_cannot_be_written_is_explained(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FetchError, match="NEOCOG_CACHE"):
        get(server, tmp_path / "file" / "x")


def test_two_at_once_fetch_once_and_both_get_the_file(server, tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(get(server, tmp_path / "x")[0])) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [path.read_bytes() == BODY for path in results] == [True] * 4
    assert len(server.ranges) == 1 and [one.name for one in tmp_path.iterdir()] == ["x"]
