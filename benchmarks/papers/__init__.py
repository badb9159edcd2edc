"""The papers' experiments: digit conversion, simulated genomics, saturation, Shapley by hand.

The DeepLIFT paper's two (arXiv 1704.02685) train their own networks, over several seeds; with
`--data FOLDER` they also take the paper's weights and compare with the published numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax

from benchmarks import measure, options, pages, report
from benchmarks.papers import digit_conversion, genomics, saturation, shapley_by_hand
from benchmarks.papers.settings import Json, Options

# An experiment's module holds: TITLE; `measure(options)` → {"settings", "cells"}; from these alone
# `section(results, figure)`, Markdown, and `draw(results, path)`.
EXPERIMENTS = {
    "digit_conversion": digit_conversion,
    "genomics": genomics,
    "saturation": saturation,
    "shapley_by_hand": shapley_by_hand,
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--experiments", nargs="+", choices=EXPERIMENTS, default=[*EXPERIMENTS], metavar="NAME",
        help=f"some of {', '.join(EXPERIMENTS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="the papers' weights, data, published numbers"
    )
    parser.add_argument(
        "--weights", choices=("trained", "paper", "both"),
        help="networks: trained here, or the paper's (default: both with --data, else trained)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=options.positive, help="networks trained (default: 5; quick: 1)"
    )
    parser.add_argument(
        "--examples", type=options.positive,
        help="explained of a digit, and of sequences (default: 200; quick: 10)",
    )  # fmt: skip


def measure_all(args: argparse.Namespace) -> Json:
    """Every experiment's settings and cells.

    Raises:
      SystemExit: the paper's weights are asked for without a folder that holds them.
    """
    weights = args.weights or ("both" if args.data else "trained")
    if weights != "trained" and not (args.data and args.data.is_dir()):
        raise SystemExit(f"--weights {weights} needs --data with the papers' folder")
    chosen = Options(
        data=args.data,
        trained=weights != "paper",
        published=weights != "trained",
        seeds=args.seeds or (1 if args.quick else 5),
        examples=args.examples or (10 if args.quick else 200),
        quick=args.quick,
        progress=not args.quiet,
    )
    cells, settings = [], {"seeds": chosen.seeds, "examples": chosen.examples, "weights": weights}
    for name in args.experiments:
        found = EXPERIMENTS[name].measure(chosen)
        settings[name] = found["settings"]
        cells += [{"experiment": name} | cell for cell in found["cells"]]
    environment = measure.environment(jax.devices()[0])
    return {
        "benchmark": "papers", "environment": environment, "settings": settings, "cells": cells,
    }  # fmt: skip


def parts(results: Json) -> dict[str, Json]:
    """Each experiment's own results."""
    return {
        name: {
            "settings": results["settings"][name],
            "cells": [c for c in results["cells"] if c["experiment"] == name],
        }
        for name in EXPERIMENTS
        if name in results["settings"]
    }


def page(results: Json, stem: str = "papers") -> str:
    """All experiments as one Markdown page."""
    texts = ["# The papers' experiments", report.environment_line(results["environment"])]
    for name, part in parts(results).items():
        figure = f"{stem}-{name}.png"
        texts += [f"## {EXPERIMENTS[name].TITLE}", EXPERIMENTS[name].section(part, figure)]
    return "\n\n".join([*texts, "`python -m benchmarks papers`"]) + "\n"


def shown(results: Json) -> str:
    return page(results)


def draw(results: Json, picture: Path) -> None:
    """A figure for each experiment."""
    for name, part in parts(results).items():
        EXPERIMENTS[name].draw(part, picture.with_name(f"{picture.stem}-{name}.png"))


write = pages.writer(lambda results, picture: page(results, Path(picture).stem), draw)
