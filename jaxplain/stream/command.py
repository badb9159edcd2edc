"""`python -m jaxplain runs PATH`: how far a run is, whether its files are whole, what it is of."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from jaxplain.stream.results import Stream, open_store

_SHOWN = 20  # failures that are printed one by one


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what is asked for; ends with 1 where files are broken, 2 where there is no run."""
    parser = argparse.ArgumentParser("jaxplain runs", description=__doc__)
    parser.add_argument("path", help="what `jaxplain.stream.run` was given")
    parser.add_argument(
        "what", nargs="*", metavar="WHAT",
        help="status, verify (which reads everything) or provenance; all of them by default",
    )  # fmt: skip
    options = parser.parse_args(argv)
    unknown = set(options.what) - set(_PRINTED)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(_PRINTED)}")
    try:
        found = open_store(options.path)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    whole = [_PRINTED[what](found) for what in options.what or _PRINTED]
    sys.exit(0 if all(whole) else 1)


def _status(found: Stream) -> bool:
    counts = found.counts()
    print(f"{len(found)} examples in {found.store.blocks} blocks of {found.store.block}")
    for name, count in counts.items():
        print(f"  {name}: {count} ({count / len(found):.1%})")
    failures = found.failures()
    for number, reason in list(failures.items())[:_SHOWN]:
        print(f"  example {number}: {reason}")
    if len(failures) > _SHOWN:
        print(f"  and {len(failures) - _SHOWN} more: jaxplain.stream.open(path).failures()")
    return True


def _verify(found: Stream) -> bool:
    broken = found.verify()
    if broken:
        print(f"verify: {len(broken)} blocks are broken: {broken}")
        print("  jaxplain.stream.retry(path) puts them back, and the next run makes them again")
    else:
        print("verify: all files that are committed are whole")
    return not broken


def _provenance(found: Stream) -> bool:
    print(json.dumps(found.provenance, indent=1))
    return True


_PRINTED = {"status": _status, "verify": _verify, "provenance": _provenance}
