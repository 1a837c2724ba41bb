"""Files of the Hugging Face hub, kept in a cache of ours.

huggingface_hub is not used for this: it neither goes on with a download that a killed run left nor compares what
arrived with its digest (2.4, file_download.py), and an answer can take it a minute. The addresses and headers are those
that it documents and uses.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener
from urllib.response import addinfourl

from lvexport.models.errors import Absent, HubError, Unreachable

MAIN = "main"  # the branch that is taken where no revision was named
PATIENCE = 1.6  # seconds in which the hub has to answer: a command that finds no network has 3, its own start included
SILENCE = 10.0  # seconds without a byte after which a download is broken off
REMEMBERED = 300.0  # seconds for which a hub that did not answer is not asked again without need
REDIRECTS = (301, 302, 303, 307, 308)
LONGEST_CHAIN = 5  # redirects after one another
COMMIT = re.compile(r"[0-9a-f]{40}")

T = TypeVar("T")
_log = logging.getLogger("lvexport")


@dataclass(frozen=True)
class Stored:
    """A file of the hub in the cache. ``revision`` is a commit."""

    path: Path
    repo: str
    revision: str


@dataclass(frozen=True)
class Offer:
    """What the hub says of a file. ``digest``: SHA-256 or, for small files, git's own SHA-1, in hexadecimal."""

    revision: str
    location: str
    size: int | None
    digest: str | None


def endpoint() -> str:
    """Where the hub is. Raises HubError for an address that is none."""
    found = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    if not found.startswith(("http://", "https://")):
        raise HubError(f"HF_ENDPOINT is {found}, which is no address of a hub. Give one such as https://huggingface.co")
    return found


def offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cache() -> Path:
    """The folder that downloads are kept in."""
    return cache_root() / "hub"


def cache_root() -> Path:
    """The folder of everything that is kept for later runs."""
    import platformdirs

    return Path(os.environ.get("LVEXPORT_CACHE") or platformdirs.user_cache_dir("lvexport"))


def folder(repo: str, revision: str) -> Path:
    """Where the files of one commit lie, under the names that they have in the repository."""
    return cache() / repo.replace("/", "--") / revision


def stored(repo: str, name: str, revision: str = MAIN) -> Stored | None:
    """The file as it was downloaded before, if its bytes are still those."""
    commit = revision if COMMIT.fullmatch(revision) else _read(_reference(repo, revision))
    path = folder(repo, commit) / name
    if not commit or not path.exists() or _read(_record(path)) != _sha256(path):
        return None
    return Stored(path, repo, commit)


def fetch(repo: str, name: str, revision: str = MAIN, insist: bool = True) -> Stored:
    """The file from the cache or, where it is not there, from the hub.

    A branch stays at the commit at which it was downloaded first. ``insist``: ask a hub that did not answer a short
    while ago. Raises Unreachable where there is no network, within 3 s, Absent where the hub has no such file, and
    HubError for anything else that stands in the way.
    """
    found = stored(repo, name, revision)
    if found is not None:
        return found
    offer = _offer(repo, name, revision, insist)
    path = folder(repo, offer.revision) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            if not path.exists() or _read(_record(path)) != _sha256(path):
                _download(repo, name, offer, path)
        _write(_reference(repo, revision), offer.revision)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise HubError(
            f"{repo} cannot be downloaded: the cache {cache()} cannot be written ({error.strerror}). Choose another "
            "folder with the environment variable LVEXPORT_CACHE."
        ) from error
    return Stored(path, repo, offer.revision)


def fetch_if_any(repo: str, name: str, revision: str) -> Stored | None:
    """Likewise, or None where the repository has no such file. ``revision`` is a commit, so that this can be kept."""
    mark = folder(repo, revision) / f"{name}.absent"
    if mark.exists():
        return None
    try:
        return fetch(repo, name, revision)
    except Absent:
        _write(mark, "")
        return None


def _reference(repo: str, revision: str) -> Path:
    return cache() / repo.replace("/", "--") / "refs" / quote(revision, safe="")


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _lock(path: Path) -> AbstractContextManager[object]:
    """Others who want this file wait until it is there."""
    from filelock import FileLock

    return FileLock(f"{path}.lock")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_sha1(path: Path) -> str:
    total = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    total.update(path.read_bytes())
    return total.hexdigest()


def _offer(repo: str, name: str, revision: str, insist: bool) -> Offer:
    """Ask the hub for a file, and remember it where there was no answer."""
    host, mark = urlsplit(endpoint()).netloc, cache() / "unreachable"
    if offline():
        raise Unreachable(_unreachable(repo, name, "HF_HUB_OFFLINE forbids to ask the hub"))
    if not insist and _read(mark) == endpoint() and time.time() - mark.stat().st_mtime < REMEMBERED:
        raise Unreachable(_unreachable(repo, name, f"{host} did not answer a short while ago"))
    try:
        offer = _within(PATIENCE, lambda: _ask(repo, name, revision))
    except (URLError, OSError, http.client.HTTPException) as error:
        try:
            _write(mark, endpoint())
        except OSError:
            _log.debug("%s cannot be written", mark)
        reason = getattr(error, "reason", None) or str(error) or "no answer"
        raise Unreachable(_unreachable(repo, name, f"{host} cannot be reached ({reason})")) from error
    mark.unlink(missing_ok=True)
    return offer


def _unreachable(repo: str, name: str, why: str) -> str:
    return f"{name} of {repo} is not in the cache, {cache()}, and {why}. Try again where there is a network."


def _within(seconds: float, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, or TimeoutError.

    Looking up a name cannot be interrupted, however long the name server is silent: such a thread is left behind.
    """
    answers: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _ask(repo: str, name: str, revision: str) -> Offer:
    url = f"{endpoint()}/{repo}/resolve/{quote(revision, safe='')}/{quote(name)}"
    try:
        with _request(url, "HEAD", stay=True) as answer:
            headers, location = answer.headers, urljoin(answer.url, answer.headers.get("Location") or answer.url)
    except HTTPError as error:
        raise _refusal(error, repo, name, revision) from error
    commit = headers.get("X-Repo-Commit")
    if not commit or not COMMIT.fullmatch(commit):
        raise URLError("what answers is no hub, but a proxy perhaps")
    size = headers.get("X-Linked-Size") or headers.get("Content-Length")
    return Offer(commit, location, int(size) if size else None, _digest(headers))


def _digest(headers: Message) -> str | None:
    """The hub's tag of a large file is its SHA-256, that of a small one git's SHA-1. Other servers may send any tag."""
    tag = (headers.get("X-Linked-ETag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    return tag if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", tag) else None


def _refusal(error: HTTPError, repo: str, name: str, revision: str) -> Exception:
    """What to raise for an answer that is none. What the hub refuses bears its code; else something else answered."""
    code = error.headers.get("X-Error-Code")
    if code in ("EntryNotFound", "RevisionNotFound"):
        return Absent(f"{repo} has no {name} at {revision}. Check the name and the revision.")
    if code is not None and error.code in (401, 403, 404):
        return Absent(
            f"{urlsplit(endpoint()).netloc} shows no {repo}: there is none of that name, or it is private or gated. "
            "Check the name, or set HF_TOKEN to a token that may read it."
        )
    return error


class _Leave(HTTPRedirectHandler):
    """Leaves redirects to the caller."""

    def redirect_request(self, *_: object) -> None:
        return None


def _request(url: str, method: str, headers: Mapping[str, str] | None = None, stay: bool = False) -> addinfourl:
    """Open an address. ``stay``: a redirect that leads away from the hub is returned, not followed.

    The token is shown to the hub alone, never to the storage that it sends us to. Raises HTTPError.
    """
    for _ in range(LONGEST_CHAIN):
        at_hub = urlsplit(url).netloc == urlsplit(endpoint()).netloc
        token = os.environ.get("HF_TOKEN", "") if at_hub else ""
        sent = {"User-Agent": "lvexport", "Accept-Encoding": "identity", **(headers or {})}
        sent |= {"Authorization": f"Bearer {token}"} if token else {}
        try:
            request = Request(url, method=method, headers=sent)
            answer: addinfourl = build_opener(_Leave).open(request, timeout=SILENCE)
            return answer
        except HTTPError as error:
            target = error.headers.get("Location")
            if error.code not in REDIRECTS or not target:
                raise
            url = urljoin(url, target)
            if stay and urlsplit(url).netloc != urlsplit(endpoint()).netloc:
                return error
    raise URLError(f"more than {LONGEST_CHAIN} redirects")


def _download(repo: str, name: str, offer: Offer, path: Path) -> None:
    """Bring the file to its place, whole and with the right digest or not at all."""
    part = path.with_name(f"{path.name}.part")
    size = f" ({offer.size / 2**20:.1f} MiB)" if offer.size else ""
    _log.info("Downloading %s of %s%s from %s.", name, repo, size, urlsplit(endpoint()).netloc)
    _receive_all(repo, name, offer, part)
    found = _sha256(part)
    compared = _git_sha1(part) if offer.digest and len(offer.digest) == 40 else found
    if offer.digest not in (None, compared):
        part.unlink()
        raise HubError(
            f"{name} of {repo} arrived damaged: its digest is {compared}, and the hub says {offer.digest}. It was not "
            "kept. Try again; if it happens again, something between here and the hub changes files."
        )
    _write(_record(path), found)
    part.replace(path)


def _receive_all(repo: str, name: str, offer: Offer, part: Path) -> None:
    """Receive what is missing of the file, again from where it broke off, as long as each attempt brings something."""
    while True:
        have = part.stat().st_size if part.exists() else 0
        if offer.size is not None and have > offer.size:
            part.unlink()
            have = 0
        if have == offer.size and have:
            return
        try:
            _receive(offer, part, have)
            return
        except (OSError, http.client.HTTPException) as error:
            if not isinstance(error, (URLError, TimeoutError, ConnectionError, http.client.HTTPException)):
                raise  # the disk's, not the network's
            if isinstance(error, HTTPError) and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                part.unlink()  # it is no beginning of this file
                continue
            if not part.exists() or part.stat().st_size <= have:
                raise Unreachable(
                    f"The download of {name} of {repo} broke off ({error}). Type the command again: it goes on from "
                    "where it was."
                ) from error


def _receive(offer: Offer, part: Path, have: int) -> None:
    """Append to the file what it lacks. Raises ConnectionError where the answer ends early."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    with _request(offer.location, "GET", headers) as answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT
        length = answer.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as file:
            shutil.copyfileobj(answer, file)
            received = file.tell() - (have if resumed else 0)
    if length is not None and received < int(length):
        raise ConnectionError("the connection was closed early")
