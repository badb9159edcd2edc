"""`python -m benchmarks NAME`; --help lists the names."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    agreement,
    faithfulness,
    genomics,
    language,
    neurons,
    papers,
    paths,
    scale,
    shapley,
    speed,
    tables,
    trust,
)
from benchmarks.peers import compare as peers

# A benchmark's module holds: its docstring, shown by --help; `configure(parser)`, its own options;
# `measure_all(args)` → what the JSON file holds; `shown(results)`, its tables for the terminal;
# `write(path)`, page and figure beside the JSON file at path, from that alone.
BENCHMARKS = {
    "speed": speed,
    "scale": scale,
    "peers": peers,
    "faithfulness": faithfulness,
    "neurons": neurons,
    "genomics": genomics,
    "papers": papers,
    "shapley": shapley,
    "paths": paths,
    "trust": trust,
    "language": language,
}
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    args.run(args)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")
    for name, module in BENCHMARKS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        command.add_argument("--quick", action="store_true", help="smaller, in two minutes or less")
        command.add_argument(
            "--out", type=Path, help="folder (default: benchmarks/results/<device>)"
        )
        command.add_argument("--quiet", action="store_true", help="no progress bar, no table")
        module.configure(command)
        command.set_defaults(run=run, benchmark=name)

    command = commands.add_parser("report", help="page and figure from a JSON file")
    command.add_argument("json", type=Path, nargs="+")
    command.set_defaults(run=lambda args: [write_report(path) for path in args.json])

    command = commands.add_parser("agree", help="whether two runs of `speed` agree")
    command.add_argument("json", type=Path, nargs=2)
    command.add_argument(
        "--keep", action="store_true",
        help="keep the second's times in the first, whose page then marks the ratios that moved",
    )  # fmt: skip
    command.set_defaults(run=compare)

    command = commands.add_parser("tables", help="put the results' tables into the docs")
    command.add_argument("--page", type=Path, default=RESULTS.parents[1] / "docs/benchmarks.md")
    command.add_argument("--results", type=Path, default=RESULTS)
    command.set_defaults(run=lambda args: tables.rewrite(args.page, args.results))
    return top


def run(args: argparse.Namespace) -> None:
    """Measures, saves, and shows what was found."""
    module = BENCHMARKS[args.benchmark]
    results = module.measure_all(args)
    path = save(results, args)
    if not args.quiet:
        print(module.shown(results), path, sep="\n\n")


def compare(args: argparse.Namespace) -> None:
    """Shows how well two runs agree."""
    results, other = (json.loads(path.read_text()) for path in args.json)
    print(agreement.shown(results, other))
    if args.keep:
        args.json[0].write_text(json.dumps(agreement.kept(results, other), indent=1) + "\n")
        write_report(args.json[0])


def save(results: dict[str, Any], args: argparse.Namespace) -> Path:
    """Writes the JSON, its page and its figure; the JSON's path."""
    out = args.out or RESULTS / slug(results["environment"])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{args.benchmark}{'-quick' if args.quick else ''}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    write_report(path)
    return path


def write_report(path: Path) -> None:
    """Page and figure, by the benchmark that the JSON file is of."""
    BENCHMARKS[json.loads(path.read_text())["benchmark"]].write(path)


def slug(environment: dict[str, Any]) -> str:
    """A folder name for the device, with the cores it had where it is a CPU."""
    cores = f" {environment['cores']} cores" if environment["platform"] == "cpu" else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{environment['device']}{cores}".lower()).strip("-")


if __name__ == "__main__":
    main()
