"""What is computed, not explained: averages, adaptive integrals, trees, loops, layouts."""
