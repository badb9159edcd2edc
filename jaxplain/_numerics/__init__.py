"""What is computed, not explained: chunks, quadrature, layouts."""
