"""The README's cost tables, rewritten from the kept results."""

import json
from pathlib import Path

from benchmarks import report

BEGIN, END = "<!-- costs:begin -->", "<!-- costs:end -->"


def rewrite(readme: Path, results: Path) -> None:
    """Replaces what stands between the markers by the tables of every device under `results`.

    Raises:
      ValueError: if `readme` doesn't hold both markers, in order.
    """
    text = readme.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} has no {BEGIN} followed by {END}")
    sections = [section(path, readme.parent) for path in sorted(results.glob("*/speed.json"))]
    readme.write_text("\n".join([head + BEGIN, "\n\n".join(sections), END + tail]))


def section(path: Path, root: Path) -> str:
    """One device's tables and figure, by paths relative to `root`."""
    results = json.loads(path.read_text())
    image = path.with_suffix(".png").relative_to(root)
    parts = [
        report.cost_table(results),
        report.environment_line(results["environment"]),
        f"![Costs on {results['environment']['device']}]({image})",
        "Each method's time in units of DeepLIFT's:",
        report.method_table(results),
    ]
    return "\n\n".join(part for part in parts if part)
