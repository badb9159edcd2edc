"""DNA as text and as one-hot arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxplain._types import Explain, Function, Tree
from jaxplain.surrogate import staging

BASES = "ACGT"
_AMBIGUOUS = "NRYSWKMBDHV"  # IUPAC's codes for one of several bases
_UNKNOWN = len(BASES)
_NO_LETTER = -1
_CODES = np.full(256, _NO_LETTER)
for _code, _letters in [*enumerate(BASES), (_UNKNOWN, _AMBIGUOUS)]:
    _CODES[list(f"{_letters}{_letters.lower()}".encode())] = _code


def one_hot(sequences: str | Sequence[str]) -> np.ndarray:
    """Sequences as arrays: a 1 in the column of each base, columns in the order A, C, G, T.

    Lower case (soft-masked repeats) is read like upper case. N, and the other IUPAC codes for one
    of several bases (R, Y, S, W, K, M, B, D, H, V), are unknown: a row of zeros, not one spread
    over the bases that a code allows. `jaxplain.references.dinucleotide_shuffle` treats it as a
    letter of its own, `decode` writes N.

    Args:
      sequences: a sequence, or several of one length.

    Returns:
      Float32, (length, 4) of a sequence, (n, length, 4) of several.

    Raises:
      ValueError: a letter that is none of these (gaps, U, blanks); sequences of unequal length;
        no sequence, or an empty one.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.genomics.one_hot("gTN")
      array([[0., 0., 1., 0.],
             [0., 0., 0., 1.],
             [0., 0., 0., 0.]], dtype=float32)
    """
    if isinstance(sequences, str):
        return one_hot([sequences])[0]
    lengths = sorted({len(sequence) for sequence in sequences})
    if not lengths or lengths[0] == 0:
        raise ValueError("there is no sequence, or an empty one")
    if len(lengths) > 1:
        raise ValueError(
            f"sequences have {lengths[0]} to {lengths[-1]} bases, and an array needs one length: "
            "cut them, pad them with N, or read them with jaxplain.datasets.bed(..., length=)"
        )
    text = "".join(sequences).encode("ascii", "replace")
    codes = _CODES[np.frombuffer(text, np.uint8)].reshape(-1, lengths[0])
    if (codes == _NO_LETTER).any():
        row, column = np.argwhere(codes == _NO_LETTER)[0]
        raise ValueError(
            f"sequence {row} has {sequences[row][column]!r} at position {column}: letters are "
            f"{BASES}, and {_AMBIGUOUS} for an unknown base, in either case"
        )
    return np.eye(_UNKNOWN + 1, _UNKNOWN, dtype=np.float32)[codes]


def decode(x: Tree) -> Any:
    """One-hot arrays as text, the inverse of `one_hot`; a row of zeros is N.

    Args:
      x: (length, 4) or (n, length, 4), one-hot or zero in every row.

    Returns:
      A string, or a list of n.

    Raises:
      ValueError: another shape, or rows that are neither one-hot nor zero.

    Example:
      >>> import jaxplain as jxp
      >>> jxp.genomics.decode(jxp.genomics.one_hot(["acgt", "AANA"]))
      ['ACGT', 'AANA']
    """
    x = np.asarray(x)
    if x.ndim == 3:
        return [decode(sequence) for sequence in check_one_hot(x)]
    codes = np.where(check_one_hot(x).any(-1), x.argmax(-1), _UNKNOWN)
    return "".join(np.array([*BASES, "N"])[codes])


def check_one_hot(x: Tree) -> np.ndarray:
    """X as a NumPy array, of one-hot or zero rows, or an error that says what it is instead."""
    x = np.asarray(x)
    check_shape(x)
    wrong = ((x != 0) & (x != 1)).any(-1) | (x.sum(-1) > 1)
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"rows must be one-hot or zero, and row {where} is {x[where]}")
    return x


def of_any(explain: Function, argnums: int) -> Explain:
    """The explanation of sequences that may be letters, or stored as integers or booleans."""

    def explain_any(*args: Any, **options: Any) -> Any:
        x = staging.as_floats(read(staging.pick(args, argnums)))
        return explain(*staging.place(args, argnums, x), **options)

    return explain_any


def as_one_hot(x: Tree, ndims: tuple[int, ...]) -> Any:
    """A one-hot array, or letters, as floats."""
    x = staging.as_floats(jnp.asarray(read(x)))
    check_shape(x, ndims)
    return x


def read(x: Any) -> Any:
    """The one-hot array of letters: of a string, or of several; anything else as it is."""
    letters = [x] if isinstance(x, str) else x
    is_text = isinstance(letters, list | tuple) and all(isinstance(s, str) for s in letters)
    return one_hot(x) if is_text and letters else x


def check_shape(x: Tree, ndims: tuple[int, ...] = (2, 3)) -> None:
    """An error unless x is (length, 4) or a batch (n, length, 4)."""
    if x.ndim not in ndims or x.shape[-1] != len(BASES):
        shapes = {2: "(length, 4)", 3: "(n, length, 4)"}
        expected = " or ".join(shapes[ndim] for ndim in ndims)
        hint = "; of (n, 4, length) swap the last two axes" if 4 in x.shape[-2:-1] else ""
        raise ValueError(f"one-hot DNA has shape {expected}, and this {x.shape}{hint}")
