"""`python -m benchmarks speed | faithfulness | neurons | report | readme`."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import faithfulness, faithfulness_report, neurons, readme, report, speed
from benchmarks.methods import METHODS
from benchmarks.models import MODELS

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    args.run(args)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("speed", help="what each method costs beside one gradient")
    command.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="M")
    command.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="M"
    )
    command.add_argument("--batch", type=positive, help="batch of every model (default: its own)")
    command.add_argument("--rounds", type=positive, help="timed rounds (default: 15; quick: 5)")
    command.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: JAX's own")
    command.add_argument("--quick", action="store_true", help="batch 4 and few rounds: two minutes")
    command.add_argument("--out", type=Path, help="folder (default: benchmarks/results/<device>)")
    command.add_argument("--quiet", action="store_true", help="no progress bar, no table")
    command.set_defaults(run=run_speed)

    command = commands.add_parser("faithfulness", help="how near each method is to Shapley values")
    command.add_argument("--networks", type=positive, default=200)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--quick", action="store_true", help="4 networks a family: two minutes")
    command.add_argument("--out", type=Path, help="folder (default: benchmarks/results/<device>)")
    command.add_argument("--quiet", action="store_true", help="no progress bar, no table")
    command.set_defaults(run=run_faithfulness)

    command = commands.add_parser("neurons", help="whose ranking of hidden neurons is best")
    command.add_argument("--examples", type=positive, default=200, help="explained (default: 200)")
    command.add_argument("--rounds", type=positive, default=9, help="timed rounds (default: 9)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--quick", action="store_true", help="20 examples, 3 rounds")
    command.add_argument("--out", type=Path, help="folder (default: benchmarks/results/<device>)")
    command.add_argument("--quiet", action="store_true", help="no progress bar, no table")
    command.set_defaults(run=run_neurons)

    command = commands.add_parser("report", help="page and figure from a JSON file")
    command.add_argument("json", type=Path, nargs="+")
    command.set_defaults(run=lambda args: [write_report(path) for path in args.json])

    command = commands.add_parser("readme", help="put the results' tables into the README")
    command.add_argument("--readme", type=Path, default=RESULTS.parents[1] / "README.md")
    command.add_argument("--results", type=Path, default=RESULTS)
    command.set_defaults(run=lambda args: readme.rewrite(args.readme, args.results))
    return top


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def run_speed(args: argparse.Namespace) -> None:
    try:
        device = jax.devices(args.device)[0]
    except RuntimeError as error:
        raise SystemExit(f"no {args.device} here: {error}") from None
    scale: dict[str, Any] = {"batch": args.batch, "rounds": args.rounds or 15}
    if args.quick:
        scale = {"batch": args.batch or 4, "rounds": args.rounds or 5, "compiles": 1, "budget": 1.0}
    results = speed.run(args.models, args.methods, device=device, progress=not args.quiet, **scale)
    path = save(results, "speed", args)
    if not args.quiet:
        print(report.cost_table(results), report.method_table(results), path, sep="\n\n")


def run_faithfulness(args: argparse.Namespace) -> None:
    networks = 4 * len(faithfulness.FAMILIES) if args.quick else args.networks
    results = faithfulness.run(networks, args.seed, progress=not args.quiet)
    path = save(results, "faithfulness", args)
    if not args.quiet:
        print(faithfulness_report.table(results), path, sep="\n\n")


def run_neurons(args: argparse.Namespace) -> None:
    examples, rounds = (20, 3) if args.quick else (args.examples, args.rounds)
    results = neurons.run(examples, rounds, args.seed, progress=not args.quiet)
    path = save(results, "neurons", args)
    if not args.quiet:
        print(neurons.table(results), neurons.claims(results), path, sep="\n\n")


def save(results: dict[str, Any], name: str, args: argparse.Namespace) -> Path:
    """Writes the JSON, its page and its figure; the JSON's path."""
    out = args.out or RESULTS / slug(results["environment"])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}{'-quick' if args.quick else ''}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    write_report(path)
    return path


def write_report(path: Path) -> None:
    """Page and figure, by the benchmark that the JSON file is of."""
    kind = json.loads(path.read_text())["benchmark"]
    {"speed": report, "faithfulness": faithfulness_report, "neurons": neurons}[kind].write(path)


def slug(environment: dict[str, Any]) -> str:
    """A folder name for the device, with the cores it had where it is a CPU."""
    cores = f" {environment['cores']} cores" if environment["platform"] == "cpu" else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{environment['device']}{cores}".lower()).strip("-")


if __name__ == "__main__":
    main()
