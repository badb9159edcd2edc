"""`python -m jaxplain` and the console script `jaxplain`: the demo, and `runs PATH`."""

import sys


def main() -> None:
    """The demo, or what `jaxplain.stream` has stored where the first word is `runs`."""
    if sys.argv[1:2] == ["runs"]:
        from jaxplain.stream.command import main as runs

        runs(sys.argv[2:])
    else:
        from jaxplain.demo import main as demo

        demo()


if __name__ == "__main__":
    main()
