"""`python -m jaxplain` and the console script `jaxplain`: the demo."""

from jaxplain.demo import main

if __name__ == "__main__":
    main()
