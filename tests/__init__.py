"""The tests, in rooms that follow the package's."""
