"""jaxplain beside its peers in torch, on the same weights: `compare` is the benchmark."""
