"""A file from the web: once, resumed where it broke off, checked, and whole or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

_BLOCK = 1 << 16  # bytes read at once
_SECONDS = 30  # without an answer


def download(urls: Sequence[str], path: Path, sha256: str) -> Path:
    """The file at `path`, fetched from the first of `urls` that gives it, unless it is there.

    What arrives is kept in `path` + ".part", so that a broken download goes on where it stopped,
    and becomes `path` in one step, once its checksum is right.

    Args:
      urls: addresses of the same file.
      path: where it is to be.
      sha256: its checksum, in hexadecimal.

    Returns:
      `path`.

    Raises:
      ConnectionError: no address gave the file; each one's reason.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in urls:
        try:
            _fetch(url, part)
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"  {url}: {error}")
            continue
        if _checksum(part) == sha256:
            os.replace(part, path)
            return path
        part.unlink()  # not to be resumed
        reasons.append(f"  {url}: not the file it should be, by its checksum")
    raise ConnectionError(f"{path.name} could not be downloaded:\n" + "\n".join(reasons))


def _fetch(url: str, part: Path) -> None:
    """Adds to `part` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is lacking, or all is wrong: the checksum tells
        raise
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        expected = answer.length  # None where the server doesn't say
        with part.open("ab" if resumed else "wb") as file:
            received = 0
            while block := answer.read(_BLOCK):
                received += file.write(block)
    if expected is not None and received < expected:
        raise ConnectionError(f"it broke off after {received} of {expected} bytes")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
