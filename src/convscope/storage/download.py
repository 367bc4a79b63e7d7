"""Files that others publish, data sets or weights: downloaded and checked by hash, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from convscope.errors import DataError, DownloadError
from convscope.progress import OnProgress, Progress
from convscope.storage.cache import create_private_folder
from convscope.storage.files import PRIVATE, move_into_place

if TYPE_CHECKING:
    import requests


TIMEOUT_SECONDS = 20
"""Longest wait for a connection, and for the next bytes on it."""

MAX_REDIRECTS = 5

CHUNK_BYTES = 1 << 16

MAX_DOWNLOAD_BYTES = 16 * 2**30
"""A server that never ends stops here; the largest published weights have a third."""

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
"""The only hosts that may be asked over plain http: their bytes cross no network."""


class _TransferError(Exception):
    """One mirror did not deliver; the text says why."""


def fetch(urls: Sequence[str], final: Path, *, known_hash: str, otherwise: str, on_progress: OnProgress) -> Path:
    """Return `final`, downloaded from the first mirror that delivers it unless it is there already.

    Bytes arrive in a file with .part at the end of its name, where a later call resumes after a cut; the file gets its
    final name only after its hash matched. Processes that want the same file wait for the first of them.

    Args:
        urls: the same file on several mirrors, https (or http on this machine only), tried in turn.
        known_hash: "algorithm:hexdigest", for example "md5:9e10..."; the first digits of the digest are enough.
        otherwise: what the user can do without this file, for the error.

    Raises:
        DataError: the folder cannot be written.
        DownloadError: no mirror delivered the right file; says why for each, and what to do instead.
    """
    from filelock import FileLock

    folder, part = final.parent, final.with_name(f"{final.name}.part")
    try:
        if has_hash(final, known_hash):
            return final
        create_private_folder(folder)
        with FileLock(folder / f"{final.name}.lock"):
            if not has_hash(final, known_hash):  # another process may have fetched it while we waited
                _download(urls, part, known_hash, final, otherwise, on_progress)
                move_into_place(part, final)
    except OSError as error:
        raise DataError(
            f"{error.filename or final} cannot be written: {error.strerror or error}; make {folder} writable, "
            f"set XDG_CACHE_HOME to a folder that is, or {otherwise}"
        ) from error
    return final


def has_hash(path: Path, known_hash: str) -> bool:
    """Return whether the file exists and its hash begins with "algorithm:digits"."""
    return path.is_file() and _hash_of(path, known_hash).startswith(known_hash)


def _hash_of(path: Path, known_hash: str) -> str:
    """Return the file's hash in the algorithm and form of `known_hash`, for example "md5:9e10..."."""
    algorithm = known_hash.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _download(
    urls: Sequence[str], part: Path, known_hash: str, final: Path, otherwise: str, on_progress: OnProgress
) -> None:
    """Fill `part` until its hash matches.

    A mirror gets another turn whenever the file has grown longer than ever before, which survives cut connections,
    and once after a wrong hash, if the wrong bytes may come from an earlier transfer.
    """
    turns, problems = deque(urls), dict[str, str]()
    longest, started_over = _size(part), False
    while turns:
        url = turns.popleft()
        resumed = _size(part) > 0
        try:
            _transfer(url, part, f"downloading {final.name}", on_progress)
        except _TransferError as failure:
            problems[url] = str(failure)
            if _size(part) > longest:
                longest = _size(part)
                turns.append(url)
            continue
        found = _hash_of(part, known_hash)
        if found.startswith(known_hash):
            return
        part.unlink()
        problems[url] = f"its content has the hash {found}, expected {known_hash}"
        if resumed and not started_over:
            started_over = True
            turns.append(url)
    reasons = "; ".join(f"{url}: {problem}" for url, problem in problems.items())
    raise DownloadError(
        f"{final.name} is missing in {final.parent} and could not be downloaded ({reasons}); put it there by hand, "
        f"or {otherwise}"
    )


def _transfer(url: str, part: Path, stage: str, on_progress: OnProgress) -> None:
    """Append what `part` lacks; its present content stays only if the server can resume from there."""
    import requests
    import urllib3

    offset = _size(part)
    try:
        with requests.Session() as session, _open(session, url, offset) as response:
            if response.status_code == 416 and offset:  # nothing left to send; the hash tells if the file is whole
                return
            start, total = _range_of(response, offset)
            with open(part, "ab", opener=_open_part) as file:
                file.truncate(start)
                # raw: a .gz file is wanted as it is, not unpacked because the server calls it an encoding
                for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
                    if file.tell() > MAX_DOWNLOAD_BYTES:
                        raise _TransferError(f"it sent more than {MAX_DOWNLOAD_BYTES} bytes")
                    on_progress(Progress(stage, file.tell(), total, unit="bytes"))
                file.flush()
                os.fsync(file.fileno())
                if total is not None and file.tell() < total:
                    raise _TransferError(f"connection cut after {file.tell()} of {total} bytes")
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:  # ValueError: no address
        raise _TransferError(_reason(error, _size(part))) from error


def _open_part(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), PRIVATE)  # a link could lead to any file of the user's


def _open(session: requests.Session, url: str, offset: int) -> requests.Response:
    """Return the response to a request for the bytes from `offset` on, after redirects that stay secure."""
    headers = {"Accept-Encoding": "identity", "User-Agent": "convscope"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    scheme_before = "http"
    for _ in range(1 + MAX_REDIRECTS):
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
        local = host in LOOPBACK_HOSTS
        if scheme != "https" and not (scheme == scheme_before == "http" and local):
            raise _TransferError(f"{scheme}://{host} is not https, the only way anything is downloaded")
        scheme_before = scheme
        session.trust_env = not local  # a proxy would look for the file on its own machine
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        if not response.is_redirect:
            return response
        url = urljoin(url, response.headers["Location"])
        response.close()
    raise _TransferError(f"more than {MAX_REDIRECTS} redirects")


def _range_of(response: requests.Response, offset: int) -> tuple[int, int | None]:
    """Return where in the file the response's first byte belongs, and the file's size if the server reports it."""
    start = 0
    if response.status_code == 206:
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) > offset:
            raise _TransferError(f"asked for the bytes from {offset} on, got {response.headers.get('Content-Range')}")
        start = int(found[1])
    elif response.status_code != 200:
        raise _TransferError(f"HTTP {response.status_code}")
    length = response.headers.get("Content-Length", "")
    return start, start + int(length) if length.isdecimal() else None


def _reason(error: Exception, received: int) -> str:
    """Return in a few words why a transfer failed; the libraries' own messages nest three errors."""
    import requests
    import urllib3

    reasons: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
        ((requests.Timeout, urllib3.exceptions.TimeoutError), f"no answer within {TIMEOUT_SECONDS} s"),
        (requests.exceptions.SSLError, "its TLS certificate was not accepted"),
        (urllib3.exceptions.HTTPError, f"connection cut after {received} bytes"),
        (requests.ConnectionError, "no connection"),
    ]
    own_words = " ".join(str(error).split()) or type(error).__name__
    return next((reason for kind, reason in reasons if isinstance(error, kind)), own_words)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
