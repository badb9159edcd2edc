"""The engine's errors."""


class UnsupportedPrimitive(NotImplementedError):
    """An active value met an operation that the table cannot carry it through."""
