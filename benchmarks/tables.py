"""The cost tables of the documentation, rewritten from the kept results."""

import json
import os
from pathlib import Path

from benchmarks import report
from benchmarks.peers import report as peers

BEGIN, END = "<!-- costs:begin -->", "<!-- costs:end -->"


def rewrite(page: Path, results: Path) -> None:
    """Replaces what stands between the markers by the tables of every device under `results`.

    Raises:
      ValueError: if the page doesn't hold both markers, in order.
    """
    text = page.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no {BEGIN} followed by {END}")
    folders = sorted({path.parent for path in results.glob("*/speed.json")})
    sections = [section(folder, page.parent) for folder in folders]
    page.write_text("\n".join([head + BEGIN, "\n\n".join(sections), END + tail]))


def section(folder: Path, root: Path) -> str:
    """One device's tables and figures, by paths relative to `root`."""
    parts = speed_parts(folder / "speed.json", root)
    peers = folder / "peers.json"
    return "\n\n".join([*parts, *(peers_parts(peers, root) if peers.exists() else [])])


def speed_parts(path: Path, root: Path) -> list[str]:
    results = json.loads(path.read_text())
    parts = [
        report.cost_table(results),
        report.environment_line(results["environment"]),
        picture(f"Costs on {results['environment']['device']}", path, root),
        folded(
            "Each method's time in units of DeepLIFT's",
            f"{report.key(results)}\n\n{report.method_table(results)}",
        ),
    ]
    return [part for part in parts if part]


def peers_parts(path: Path, root: Path) -> list[str]:
    results = json.loads(path.read_text())
    page = os.path.relpath(path.with_suffix(".md"), root)
    return [
        "Beside Captum, shap, tangermeme, shapiq and zennit, on the same weights and one thread "
        f"([all of it]({page})):",
        peers.claims(results),
        picture("Beside other packages", path, root),
        folded(
            "Each method's CPU time in units of its own framework's gradient",
            f"{peers.KEY}\n\n{peers.ratio_table(results)}",
        ),
    ]


def picture(text: str, path: Path, root: Path) -> str:
    return f"![{text}]({os.path.relpath(path.with_suffix('.png'), root)})"


def folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
