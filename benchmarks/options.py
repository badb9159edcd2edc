"""What the benchmarks' command lines share."""

import argparse

import jax


def positive(text: str) -> int:
    """An argparse type: an integer ≥ 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: JAX's own")


def device(name: str | None) -> jax.Device:
    """The device asked for, or a way out."""
    try:
        return jax.devices(name)[0]
    except RuntimeError as error:
        raise SystemExit(f"no {name} here: {error}") from None
