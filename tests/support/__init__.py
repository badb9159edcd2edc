"""What tests share: models, functions, reference numbers, small checks."""
