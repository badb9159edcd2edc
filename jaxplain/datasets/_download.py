"""A file from the web: from the first mirror that has it, checked, and whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_SECONDS = 30  # without an answer


def download(urls: Sequence[str], path: Path, sha256: str) -> Path:
    """The file at `path`, fetched from the first of `urls` that gives it, unless it is there.

    Args:
      urls: addresses of the same file.
      path: where it is to be.
      sha256: its checksum, in hexadecimal.

    Returns:
      `path`.

    Raises:
      ModuleNotFoundError: pooch is not installed.
      ConnectionError: no address gave the file; each one's reason.
    """
    import pooch
    from requests.exceptions import RequestException  # pooch's

    reasons = []
    for url in urls:
        try:
            pooch.retrieve(
                url,
                f"sha256:{sha256}",
                fname=path.name,
                path=path.parent,
                downloader=pooch.HTTPDownloader(timeout=_SECONDS),
            )
        except (OSError, RequestException, ValueError) as error:  # ValueError: another checksum
            reasons.append(f"  {url}: {error}")
        else:
            return path
    raise ConnectionError(f"{path.name} could not be downloaded:\n" + "\n".join(reasons))
