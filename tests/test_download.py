"""Downloads against a server on this machine that cuts, lies, ignores Range and redirects."""

from __future__ import annotations

import hashlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from convscope.config import DataConfig
from convscope.data.sources import cifar, idx
from convscope.data.sources.published import WITHOUT_A_DOWNLOAD
from convscope.errors import DataError, DownloadError
from convscope.progress import Progress, ignore_progress
from convscope.storage import cache, download

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


@dataclass
class Page:
    """How the server answers for one path.

    Args:
        cuts: for each request in turn, after how many bytes the connection ends; then whole answers.
        announce: whether the answer tells its length.
        headers: further headers.
    """

    content: bytes = CONTENT
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    announce: bool = True
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False


class Server(ThreadingHTTPServer):
    """Serves `pages`; `requests` lists (path, Range header or None)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {"/file": Page()}
        self.requests: list[tuple[str, str | None]] = []
        self.closing = threading.Event()

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        page, asked = self.server.pages[self.path], self.headers["Range"]
        self.server.requests.append((self.path, asked))
        if page.hang:
            self.server.closing.wait()
            return
        found = re.fullmatch(r"bytes=(\d+)-", asked or "") if page.ranges else None
        start = int(found[1]) if found else 0
        status = 206 if found else page.status
        if found and start >= len(page.content):
            status = 416
        body = b"" if status == 416 else page.content[start:]
        self.send_response(status)
        if found and status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
        if page.announce:
            self.send_header("Content-Length", str(len(body)))
        for name, value in page.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def fetch(folder: Path, *urls: str, known_hash: str = MD5) -> Path:
    return download.fetch(
        urls,
        folder / "file",
        known_hash=known_hash,
        otherwise=WITHOUT_A_DOWNLOAD,
        on_progress=ignore_progress,
    )


def assert_whole(folder: Path) -> None:
    """The file is right and nothing half is left beside it."""
    assert (folder / "file").read_bytes() == CONTENT
    assert not (folder / "file.part").exists()


def test_fetch_returns_the_file_and_asks_once(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    assert fetch(folder, server.url()) == folder / "file"
    assert fetch(folder, server.url()) == folder / "file"
    assert_whole(folder)
    assert server.requests == [("/file", None)]


def test_a_wrong_file_under_the_final_name_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT[:-1])
    fetch(tmp_path, server.url())
    assert_whole(tmp_path)


def test_progress_counts_bytes_up_to_the_size(server: Server, tmp_path: Path) -> None:
    seen: list[Progress] = []
    download.fetch([server.url()], tmp_path / "file", known_hash=MD5, otherwise="wait", on_progress=seen.append)
    assert {(progress.stage, progress.total, progress.unit) for progress in seen} == {
        ("downloading file", len(CONTENT), "bytes")
    }
    done = [progress.done for progress in seen]
    assert done == sorted(set(done))
    assert done[-1] == len(CONTENT)


@pytest.mark.parametrize("percent", [0, 1, 50, 99])
@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "ignores Range"])
def test_a_cut_connection_is_survived(server: Server, tmp_path: Path, percent: int, ranges: bool) -> None:
    server.pages["/file"] = Page(ranges=ranges, cuts=[len(CONTENT) * percent // 100])
    server.pages["/mirror"] = Page(ranges=ranges)
    fetch(tmp_path, server.url(), server.url("/mirror"))
    assert_whole(tmp_path)


def test_after_each_cut_only_the_rest_is_asked_for(server: Server, tmp_path: Path) -> None:
    server.pages["/file"] = Page(cuts=[100_000, 50_000, 1])
    fetch(tmp_path, server.url())
    assert_whole(tmp_path)
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]


def test_a_server_that_always_cuts_is_given_up_and_the_part_kept(server: Server, tmp_path: Path) -> None:
    server.pages["/file"] = Page(ranges=False, cuts=[100_000] * 9)
    with pytest.raises(DownloadError, match="connection cut after 100000"):
        fetch(tmp_path, server.url())
    assert not (tmp_path / "file").exists()
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:100_000]
    assert len(server.requests) < 5
    server.pages["/file"] = Page()
    fetch(tmp_path, server.url())
    assert_whole(tmp_path)
    assert server.requests[-1] == ("/file", "bytes=100000-")


@pytest.mark.parametrize("ranges", [True, False], ids=["resumes", "ignores Range"])
@pytest.mark.parametrize(
    "split",
    [CONTENT[:1], CONTENT[:-1], CONTENT, CONTENT + b"more", b"x" * 1000, b"x" * len(CONTENT), b"x" * 400_000],
    ids=["start", "nearly all", "all", "too much", "wrong start", "all wrong", "wrong and too much"],
)
def test_whatever_an_earlier_process_left_the_file_is_right(
    server: Server, tmp_path: Path, split: bytes, ranges: bool
) -> None:
    server.pages["/file"] = Page(ranges=ranges)
    (tmp_path / "file.part").write_bytes(split)
    fetch(tmp_path, server.url())
    assert_whole(tmp_path)


def test_a_wrong_hash_removes_the_file_and_names_both(server: Server, tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + b"!"
    server.pages["/file"] = Page(content=wrong)
    with pytest.raises(DownloadError, match=f"md5:{hashlib.md5(wrong).hexdigest()}, expected {MD5}"):
        fetch(tmp_path, server.url())
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "file.part").exists()
    assert len(server.requests) == 1


def test_the_first_digits_of_a_hash_are_enough_and_are_checked(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    fetch(tmp_path, server.url(), known_hash=f"sha256:{digest[:8]}")
    assert_whole(tmp_path)
    wrong = f"{int(digest[:8], 16) ^ 1:08x}"
    with pytest.raises(DownloadError, match=f"sha256:{digest}, expected sha256:{wrong}"):
        fetch(tmp_path / "other", server.url(), known_hash=f"sha256:{wrong}")


def test_a_cut_that_the_server_does_not_announce_is_no_file(server: Server, tmp_path: Path) -> None:
    server.pages["/file"] = Page(announce=False, cuts=[1000])
    with pytest.raises(DownloadError, match="has the hash"):
        fetch(tmp_path, server.url())
    assert not (tmp_path / "file").exists()
    fetch(tmp_path, server.url())
    assert_whole(tmp_path)


@pytest.mark.parametrize(
    "page",
    [Page(content=b"<html>welcome to the hotel</html>"), Page(status=404), Page(status=503), Page(cuts=[70_000] * 20)],
    ids=["wrong content", "404", "503", "cuts"],
)
def test_the_next_mirror_helps(server: Server, tmp_path: Path, page: Page) -> None:
    server.pages |= {"/bad": page, "/good": Page()}
    fetch(tmp_path, server.url("/bad"), server.url("/good"))
    assert_whole(tmp_path)


def test_a_server_that_answers_with_another_range_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.pages["/file"] = Page(ranges=False, status=206, headers={"Content-Range": "bytes 5000-299999/300000"})
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="asked for the bytes from 1000 on, got bytes 5000-"):
        fetch(tmp_path, server.url())
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1000]


def test_a_file_labelled_as_an_encoding_arrives_as_it_lies_there(server: Server, tmp_path: Path) -> None:
    server.pages["/file"] = Page(headers={"Content-Encoding": "gzip"})
    fetch(tmp_path, server.url())
    assert_whole(tmp_path)


def test_a_silent_server_is_left(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.1)
    server.pages["/file"] = Page(hang=True)
    with pytest.raises(DownloadError, match="no answer within"):
        fetch(tmp_path, server.url())


def test_redirects_are_followed_on_this_machine(server: Server, tmp_path: Path) -> None:
    server.pages["/old"] = Page(content=b"", status=302, headers={"Location": "/file"})
    fetch(tmp_path, server.url("/old"))
    assert_whole(tmp_path)


INSECURE = [
    "http://example.invalid/file",
    "http://127.0.0.1.example.invalid/file",
    "http://localhost@example.invalid/file",
    "ftp://127.0.0.1/file",
    "file:///etc/hostname",
]


@pytest.mark.parametrize("target", INSECURE)
def test_nothing_is_fetched_or_redirected_over_plain_http(server: Server, tmp_path: Path, target: str) -> None:
    server.pages["/old"] = Page(content=b"", status=302, headers={"Location": target})
    for url in (target, server.url("/old")):
        with pytest.raises(DownloadError, match="is not https"):
            fetch(tmp_path, url)
    assert not (tmp_path / "file").exists()


def test_redirects_in_a_circle_and_nonsense_addresses_end(server: Server, tmp_path: Path) -> None:
    server.pages["/circle"] = Page(content=b"", status=302, headers={"Location": "/circle"})
    server.pages["/nonsense"] = Page(content=b"", status=302, headers={"Location": "http://[::1"})
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        fetch(tmp_path, server.url("/circle"))
    with pytest.raises(DownloadError, match="Invalid IPv6 URL"):
        fetch(tmp_path, server.url("/nonsense"))


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(DownloadError) as caught:
            fetch(tmp_path, url)
    message = str(caught.value)
    assert "\n" not in message
    for words in (f"file is missing in {tmp_path}", "no connection", "--data-dir", "`mnist5k`", "`digits`", "folders"):
        assert words in message


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(DataError, match=f"{tmp_path / 'cache'}.* cannot be written: Not a directory"):
        fetch(tmp_path / "cache" / "mnist", server.url())
    assert server.requests == []


EIGHTH = """
import sys
from pathlib import Path
from convscope.storage.download import fetch
from convscope.progress import ignore_progress
url, known_hash, folder = sys.argv[1:]
fetch([url], Path(folder) / "file", known_hash=known_hash, otherwise="wait", on_progress=ignore_progress)
"""


def test_eight_processes_at_once_fetch_one_right_file(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-c", EIGHTH, server.url(), MD5, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    outcomes = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert outcomes == [("", 0)] * 8
    assert_whole(tmp_path)
    assert server.requests == [("/file", None)]


# ---------------------------------------------------------------- the data sets that use it


def test_mnist_is_fetched_into_the_cache_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    images = b"\0\0\x08\3" + np.array([2, 1, 3], ">u4").tobytes() + bytes(range(6))
    labels = b"\0\0\x08\1" + np.array([2], ">u4").tobytes() + bytes([7, 1])
    contents = {stem: images if "images" in stem else labels for stem in idx.MNIST.md5}
    server.pages = {f"/{stem}-ubyte.gz": Page(content=content) for stem, content in contents.items()}
    md5 = {stem: hashlib.md5(content).hexdigest() for stem, content in contents.items()}
    source = replace(idx.MNIST, mirrors=(server.url("/"),), md5=md5)
    for _ in range(2):
        found = idx.load_idx_source(source, DataConfig(source="mnist"), ignore_progress)
        assert found.images.ravel().tolist() == [0, 1, 2, 3, 4, 5] * 2
        assert found.labels.tolist() == [7, 1, 7, 1]
    assert len(server.requests) == 4


def test_cifar10_is_fetched_into_the_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.setattr(cifar, "URL", server.url())
    monkeypatch.setattr(cifar, "PYTHON", replace(cifar.PYTHON, archive_md5=MD5.removeprefix("md5:")))
    # arrives whole in the cache; as random bytes are no archive, reading it then fails by name
    with pytest.raises(DataError, match=r"cifar10/cifar-10-python.tar.gz cannot be read"):
        cifar.load_cifar10(DataConfig(source="cifar10"), ignore_progress)
    assert (tmp_path / "convscope" / "cifar10" / "cifar-10-python.tar.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("source", [idx.MNIST, idx.FASHION_MNIST], ids=lambda source: source.name)
def test_addresses_are_https_and_hashes_are_md5(source: idx.IdxSource) -> None:
    assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in source.mirrors)
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in source.md5.values())
    assert cifar.URL.startswith("https://")
