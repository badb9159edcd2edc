"""What f gains by every single substitution in a sequence."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import nothing_drawn
from jaxplain._numerics.chunking import check_chunk, chunked_map
from jaxplain._numerics.windows import after_a_change
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Explain, Function
from jaxplain.methods.perturbation.masking import one_array
from jaxplain.surrogate import staging


@speaks
def in_silico_mutagenesis(
    f: Function, *, chunk: int | None = None, argnums: Argnums = 0
) -> Explain:
    r"""What f gains by every single substitution: C_{la} = f(x, x_l := letter a) - f(x).

    Of each mutant only what its substitution reaches is computed: windows of the values behind
    convolutions, pools and elementwise operations, until something looks at all positions. The
    more local f is, the less it costs; on a CPU least with `chunk=1`.

    Args:
      f: as in `ablation`.
      chunk: how many mutants are evaluated at once, all letters of a position at least; None all.
      argnums: which argument of f is x.

    Returns:
      `explain(x, *args)`, x a one-hot sequence (length, letters), of floats, or of integers or
      booleans that f then gets as floats → a floating array like x, 0 at the letters that are
      there. Axes of f's outputs are in front.

    Raises:
      TypeError: f does not return real numbers; x is not one array.
      ValueError: x has not two axes; chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> x = jax.nn.one_hot(jnp.array([0, 2]), 4)
      >>> jxp.in_silico_mutagenesis(lambda x: x[1] @ jnp.arange(4.0))(x)
      Array([[ 0.,  0.,  0.,  0.],
             [-2., -1.,  0.,  1.]], dtype=float32)

    Source: Alipanahi et al., Nature Biotechnology 33 (2015) 831-838; Zhou & Troyanskaya, Nature
    Methods 12 (2015) 931-934.
    """
    check_chunk(chunk)

    @nothing_drawn
    def explain(*args: Any) -> Any:
        x = one_array(staging.as_floats(staging.pick(args, argnums)), "in_silico_mutagenesis")
        if x.ndim != 2:
            raise ValueError(
                f"a one-hot sequence has shape (length, letters), and this {x.shape}: of many, "
                "take `jax.vmap` or `jaxplain.batched` of explain"
            )
        length, letters = x.shape
        value = staging.array(f, args, argnums)
        whole = value(x)
        after = after_a_change(value, x, (1, letters))
        alphabet = jnp.eye(letters, dtype=x.dtype)

        def gains(position: Any) -> Any:
            place = jnp.stack([position, jnp.zeros_like(position)])
            return jax.vmap(lambda letter: after(letter[None], place) - whole)(alphabet)

        positions = None if chunk is None else max(chunk // letters, 1)
        return jnp.moveaxis(chunked_map(gains, jnp.arange(length), positions), (0, 1), (-2, -1))

    return explain
