"""Expected gradients: integrated gradients averaged over references, by Monte Carlo."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain._keys import drawn
from jaxplain._numerics.chunking import average, check_chunk, check_samples, leading_size
from jaxplain._numerics.trees import between, minus, times
from jaxplain._speaking import speaks
from jaxplain._types import Argnums, At, Explain, Function, Key, Tree
from jaxplain.methods.gradients import gradient
from jaxplain.named import probes
from jaxplain.surrogate import staging


@speaks
def expected_gradients(
    f: Function,
    refs: Tree,
    *,
    samples: int,
    chunk: int | None = None,
    multiply: bool = True,
    at: At | None = None,
    standard_error: bool = False,
    argnums: Argnums = 0,
) -> Explain:
    r"""Expected gradients: C = E_{r, α}[(x - r) ⊙ ∇f(r + α(x - r))], α uniform in [0, 1].

    The draws are stratified: references are used equally often, to within one, each at α's spread
    over [0, 1], and all α's together have one in each of `samples` equal parts.

    Args:
      f: `f(x, *args)` → scalar; x a pytree of floating arrays.
      refs: references: a tree like x with a leading axis on every leaf.
      samples: how many gradients, ≥ 1; a multiple of the number of references is exact for a
        linear f.
      chunk: how many gradients are evaluated at once; None all.
      multiply: False returns the averaged gradient without (x - r).
      at: a name, several or a pattern (`jaxplain.tag`, `jaxplain.names`):
        E[(h(x) - h(r)) ⊙ ∂f/∂h at r + α(x - r)] of these values h inside f, in one backward pass;
        complete where f is affine in h. For x and refs with integers (token ids) the point is
        between what they look up, as in `deeplift`.
      standard_error: also return σ/√samples; of stratified draws an overestimate.
      argnums: which argument(s) of f are x.

    Returns:
      `explain(x, *args, key=)` → contributions, a tree like x, whose expectation sums to
      f(x) - E_r f(r); with `standard_error` a pair of trees.  With `at` one array like the value
      for one name, {name: array} for several.

    Raises:
      TypeError: f is not scalar-valued, or x is not made of floating arrays; a key is missing.
      ValueError: too few samples, refs do not broadcast to x behind their axis, or chunk < 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> refs = jnp.array([[0.0, 0.0], [2.0, 4.0]])
      >>> explain = jxp.expected_gradients(lambda x: x.sum(), refs, samples=4)
      >>> explain(jnp.ones(2), key=jax.random.key(0))
      Array([ 0., -1.], dtype=float32)

    Source: Erion et al., arXiv 1906.10670, eq. 2; Lundberg's GradientExplainer (GradientSHAP).
    """
    check_chunk(chunk)
    check_samples(samples, standard_error=standard_error)

    @drawn("references and their places on the way to x")
    def explain(*args: Any, key: Key) -> Any:
        inputs = staging.attributed(f, args, argnums, integers=at is not None)
        background = staging.as_references(refs, inputs)
        chosen, alphas = _draws(leading_size(background), samples, key)
        probed = None if at is None else probes.probe(f, at, args, argnums)
        x = inputs if probed is None else probed.x

        def contribution(draw: Any) -> Any:
            number, alpha = draw
            ref = jax.tree.map(lambda r: r[number], background)
            ref = staging.as_reference(ref, x) if probed is None else probed.reference(ref)
            point = between(ref, minus(x, ref), alpha)
            if probed is None:
                slope = gradient(f, argnums=argnums)(*staging.place(args, argnums, point))
                ends = x, ref
            else:
                slope = probed.result(probed.gradient(point))
                ends = tuple(probed.result(probed.values(end)) for end in (x, ref))
            if not multiply:
                return slope
            return times(slope, minus(*ends))

        return average(contribution, (chosen, alphas), chunk, standard_error=standard_error)

    return explain


def _draws(references: int, samples: int, key: Key) -> tuple[Any, Any]:
    """Which reference, and α, for every sample.

    Round k of all references has its α's in the k-th of equally many parts of [0, 1], one in each
    of as many equal parts of that as there are references.
    """
    order_key, place_key, jitter_key = jax.random.split(key, 3)
    number = jnp.arange(samples)
    rounds, last = divmod(samples, references)
    at = jax.random.permutation(order_key, references)[number % references]
    keys = jax.random.split(place_key, rounds + 1)
    places = jax.vmap(lambda key: jax.random.permutation(key, references))(keys[:rounds])
    rest = jax.random.permutation(keys[-1], last)
    place = jnp.concatenate([places.ravel(), rest]) + number // references * references
    jitter = jax.random.uniform(jitter_key, (samples,))
    return at, (place.astype(jitter.dtype) + jitter) / samples
