"""Shapley values: the games, their indices, and the estimators."""
