"""What explanations cost: `python -m benchmarks speed` sets them beside the plain gradient."""
