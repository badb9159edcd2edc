"""Games: groups of the input are players, and f is evaluated with coalitions of them present."""
