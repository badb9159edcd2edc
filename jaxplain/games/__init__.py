"""Cooperative games whose players are parts of an input: their values, indices and estimators."""
