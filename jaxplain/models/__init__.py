"""Bridges to the libraries that models are written in."""
