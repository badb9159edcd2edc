"""Lifted values: what an array that depends on x carries through the surrogate."""
