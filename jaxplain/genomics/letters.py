"""What the library has for sequences of any letters, for DNA that may be given as text."""

from __future__ import annotations

from typing import Any

import jax

from jaxplain import references
from jaxplain._types import Explain, Function, Tree
from jaxplain.genomics.onehot import of_any, read
from jaxplain.methods import perturbation


def in_silico_mutagenesis(f: Function, *, chunk: int | None = None, argnums: int = 0) -> Explain:
    """`jaxplain.in_silico_mutagenesis`, whose x may be a string.

    Args:
      f: `f(x, *args)` → a number, or an array of them, for one sequence x.
      chunk: how many mutants are evaluated at once; None all.
      argnums: which argument of f is x.

    Returns:
      `explain(x, *args)` → what f gains by each substitution, (*outputs, length, 4).

    Raises:
      TypeError, ValueError: as `jaxplain.in_silico_mutagenesis`; a letter that is no base.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.genomics.in_silico_mutagenesis(lambda x: x[1] @ jnp.arange(4.0))("AG")
      Array([[ 0.,  0.,  0.,  0.],
             [-2., -1.,  0.,  1.]], dtype=float32)

    Source: as `jaxplain.in_silico_mutagenesis`.
    """
    return of_any(perturbation.in_silico_mutagenesis(f, chunk=chunk, argnums=argnums), argnums)


def dinucleotide_shuffle(x: Tree, key: jax.Array, *, samples: int) -> Any:
    """`jaxplain.references.dinucleotide_shuffle`, whose x may be a string.

    Args:
      x: a sequence, a string or one-hot (length, 4).
      key: a PRNG key.
      samples: how many shuffles, ≥ 1.

    Returns:
      References (samples, length, 4), one-hot.

    Raises:
      ValueError: x is no sequence, or samples < 1.

    Example:
      >>> import jax, jaxplain as jxp
      >>> shuffles = jxp.genomics.dinucleotide_shuffle("ACACGT", jax.random.key(0), samples=2)
      >>> jxp.genomics.decode(shuffles)
      ['ACACGT', 'ACACGT']

    Source: as `jaxplain.references.dinucleotide_shuffle`.
    """
    return references.dinucleotide_shuffle(read(x), key, samples=samples)
