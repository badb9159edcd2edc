"""References: what an input is compared with, by the field's usual choices.

Each is a pure function of arrays. Those that return several references put them along a leading
axis, as `expected(method)(f, refs)` takes them; with everything but (x, key) bound by
`functools.partial` they are also the functions `refs(x, key)` that it takes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._numerics.blur import blur, radius
from jaxplain._numerics.chunking import check_samples, leading_size
from jaxplain._types import Key, Tree
from jaxplain.surrogate import staging

_BASES = 4
_UNKNOWN = _BASES  # an all-zero column is a fifth letter
_LETTERS = _BASES + 1


def zeros(x: Tree) -> Any:
    """Zeros: a black image, no token, nothing there.

    Args:
      x: a pytree of arrays.

    Returns:
      One reference, shaped and typed like x.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.references.zeros(jnp.ones(2))
      Array([0., 0.], dtype=float32)

    Source: Shrikumar et al., arXiv 1704.02685, section 3.3 (MNIST).
    """
    return jax.tree.map(jnp.zeros_like, x)


def constant(x: Tree, value: Any) -> Any:
    """One value everywhere: a grey image, background frequencies at every base.

    Args:
      x: a pytree of arrays.
      value: a scalar, or a tree like x whose leaves broadcast to x's.

    Returns:
      One reference, shaped and typed like x.

    Raises:
      ValueError: value does not broadcast to x.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.references.constant(jnp.ones((2, 4)), jnp.array([0.3, 0.2, 0.2, 0.3]))
      Array([[0.3, 0.2, 0.2, 0.3],
             [0.3, 0.2, 0.2, 0.3]], dtype=float32)

    Source: Shrikumar et al., arXiv 1704.02685, section 4.2 (genomics).
    """
    return staging.as_reference(value, x)


def mean(data: Any) -> Any:
    """The mean example.

    Args:
      data: a pytree of arrays with a leading axis of examples.

    Returns:
      One reference: a tree like one example, of floating numbers.

    Raises:
      ValueError: the leaves have no common, non-empty leading axis.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.references.mean(jnp.array([[0.0, 2.0], [1.0, 4.0]]))
      Array([0.5, 3. ], dtype=float32)

    Source: Sturmfels, Lundberg & Lee, "Visualizing the impact of feature attribution baselines",
    Distill 2020.
    """
    leading_size(data)
    return jax.tree.map(lambda leaf: jnp.mean(jnp.asarray(leaf), axis=0), data)


def median(data: Any) -> Any:
    """The example of medians, feature by feature; robust where the mean is not.

    Args:
      data: a pytree of arrays with a leading axis of examples.

    Returns:
      One reference: a tree like one example, of floating numbers.

    Raises:
      ValueError: the leaves have no common, non-empty leading axis.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> jxp.references.median(jnp.array([[0.0], [1.0], [50.0]]))
      Array([1.], dtype=float32)
    """
    leading_size(data)
    return jax.tree.map(lambda leaf: jnp.median(jnp.asarray(leaf), axis=0), data)


def training_sample(data: Any, key: jax.Array, samples: int) -> Any:
    """Examples drawn from the data without replacement: the background of SHAP.

    Args:
      data: a pytree of arrays with a leading axis of n examples.
      key: a PRNG key.
      samples: how many, 1 ≤ samples ≤ n.

    Returns:
      References: a tree like data, its leading axis of size `samples`.

    Raises:
      ValueError: more samples than examples, or the leaves have no common leading axis.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> data = {"age": jnp.arange(100.0), "dose": jnp.ones((100, 3))}
      >>> refs = jxp.references.training_sample(data, jax.random.key(0), 20)
      >>> refs["age"].shape, refs["dose"].shape
      ((20,), (20, 3))

    Source: Lundberg & Lee, arXiv 1705.07874, eq. 9 (features are replaced by the data's).
    """
    count = leading_size(data)
    if not 1 <= samples <= count:
        raise ValueError(
            f"samples must be between 1 and the {count} examples in the data, and is {samples}: "
            "they are drawn without replacement"
        )
    chosen = jax.random.choice(key, count, (samples,), replace=False)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], data)


def gaussian_blur(
    x: Tree, *, stdev: float | Sequence[float], axes: int | Sequence[int]
) -> jax.Array:
    r"""x without its detail: Gaussian blur along some axes, one after another.

    Along each axis y_i = Σ_k w_k x_{i+k}, w_k ∝ exp(-k²/2σ²) for |k| ≤ 4σ, Σ w = 1. Beyond its
    edges x is mirrored, the edge element included (d c b a | a b c d | d c b a), so a constant
    stays constant and Σ y = Σ x.

    Args:
      x: an array of any rank; a batch or channels are axes that are left out.
      stdev: σ in elements, as Python numbers: one for all axes, or one for each.
      axes: the axes to blur, such as (0, 1) for an image of shape (height, width, channels).

    Returns:
      One reference, shaped and typed like x.

    Raises:
      ValueError: σ is negative, or there is not one for each axis.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> image = jnp.zeros((5, 5, 3)).at[2, 2].set(1.0)
      >>> blurred = jxp.references.gaussian_blur(image, stdev=1.0, axes=(0, 1))
      >>> round(float(blurred[2, 2, 0]), 3), round(float(blurred.sum()), 3)
      (0.159, 3.0)

    Source: Fong & Vedaldi, arXiv 1704.03296, section 4.1 (blur as a meaningful reference).
    """
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    stdevs = (stdev,) * len(axes) if isinstance(stdev, int | float) else tuple(stdev)
    if len(stdevs) != len(axes) or min(stdevs, default=0) < 0:
        raise ValueError(f"stdev={stdev} must give one number ≥ 0 for each of the axes {axes}")
    x = jnp.asarray(x)
    for axis, sigma in zip(axes, stdevs, strict=True):
        if sigma > 0:
            x = blur(x, sigma, radius(sigma), axis)
    return x


def uniform_noise(x: Tree, key: jax.Array, *, low: Any = 0.0, high: Any = 1.0, samples: int) -> Any:
    """Independent uniform noise in [low, high) at every feature.

    Args:
      x: a pytree of floating arrays.
      key: a PRNG key.
      low: the least value: a scalar, or a tree that broadcasts to x.
      high: the bound above, likewise.
      samples: how many references, ≥ 1.

    Returns:
      References: a tree like x with a leading axis of size `samples` on every leaf.

    Raises:
      ValueError: samples < 1, or a bound does not broadcast to x.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> jxp.references.uniform_noise(jnp.zeros((8, 8)), jax.random.key(0), samples=20).shape
      (20, 8, 8)

    Source: Sturmfels, Lundberg & Lee, "Visualizing the impact of feature attribution baselines",
    Distill 2020 (the uniform baseline).
    """
    check_samples(samples)
    leaves, tree = jax.tree.flatten(staging.as_input(x))
    keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))

    def noise(leaf: Any, key: Key, low: Any, high: Any) -> jax.Array:
        shape = (samples, *leaf.shape)
        return jax.random.uniform(key, shape, leaf.dtype, minval=low, maxval=high)

    x = jax.tree.unflatten(tree, leaves)
    bounds = (staging.as_reference(bound, x) for bound in (low, high))
    return jax.tree.map(noise, x, keys, *bounds)


def dinucleotide_shuffle(x: Tree, key: jax.Array, *, samples: int) -> jax.Array:
    """Shuffled sequences with x's exact dinucleotide counts and its first and last base.

    A sequence is a walk along its dinucleotides, the edges of a multigraph on the letters. Every
    walk that uses all edges once leaves each letter but the final one for the last time by an edge
    of an arborescence into the final one; conversely any arborescence, with the other exits in any
    order, makes one. The arborescence is drawn from all of them with its number of edges as its
    weight, the order of the other exits uniformly: all such sequences are equally likely.

    Args:
      x: a one-hot sequence (length, 4). A column of zeros (N, unknown) is a fifth letter: its
        dinucleotides are kept as exactly, and it moves about with the others. A batch is
        `jax.vmap`, over keys too.
      key: a PRNG key.
      samples: how many shuffles, ≥ 1, each independent of the others.

    Returns:
      References (samples, length, 4), one-hot, typed like x; floats of an x that is stored as
      integers or booleans.

    Raises:
      ValueError: x is not of shape (length, 4), or samples < 1.

    Example:
      >>> import functools, jax, jax.numpy as jnp, jaxplain as jxp
      >>> x = jax.nn.one_hot(jnp.array([0, 2, 1, 2, 3, 2, 2, 0]), 4)
      >>> jxp.references.dinucleotide_shuffle(x, jax.random.key(0), samples=20).shape
      (20, 8, 4)
      >>> shuffles = functools.partial(jxp.references.dinucleotide_shuffle, samples=20)
      >>> explain = jxp.deeplift_shap(lambda x: x[1:4, 2].prod(), shuffles)
      >>> explain(x, key=jax.random.key(0)).shape
      (8, 4)

    Source: Altschul & Erickson, "Significance of nucleotide sequence alignments", Mol. Biol. Evol.
    2 (1985) 526-538; uniform by the theorem of de Bruijn, van Aardenne-Ehrenfest, Smith & Tutte.
    """
    x = staging.as_floats(jnp.asarray(x))
    if x.ndim != 2 or x.shape[1] != _BASES:
        raise ValueError(
            f"a one-hot sequence has shape (length, {_BASES}), and this one {x.shape}; "
            "a batch is `jax.vmap`"
        )
    check_samples(samples)
    if len(x) < 3:  # both ends are fixed
        return jnp.broadcast_to(x, (samples, *x.shape))
    letters = jnp.where(x.any(1), x.argmax(1), _UNKNOWN)
    shuffled = jax.vmap(lambda key: _shuffle(letters, key))(jax.random.split(key, samples))
    return jax.nn.one_hot(shuffled, _BASES, dtype=x.dtype)  # a fifth letter has no column


@jax.jit
def _shuffle(letters: jax.Array, key: jax.Array) -> jax.Array:
    """A sequence of letters (length,), shuffled."""
    tree_key, order_key = jax.random.split(key)
    sources, targets = letters[:-1], letters[1:]
    edges = jnp.arange(len(sources))
    counts = jnp.zeros((_LETTERS, _LETTERS), int).at[sources, targets].add(1)
    parents = _arborescence(counts, letters[-1], tree_key)

    # Each letter's exits in random order, but one of those along the tree behind the others.
    along = (targets == parents[sources]) & (sources != letters[-1])
    last = jnp.full(_LETTERS, -1).at[sources].max(jnp.where(along, edges, -1))
    is_last = (edges == last[sources]).astype(int)
    order = jax.random.bits(order_key, edges.shape)
    *_, exits = jax.lax.sort((sources, is_last, order, targets), num_keys=3)
    outgoing = counts.sum(1)

    def step(state: Any, _: None) -> Any:
        letter, following = state
        nearest = exits[following[letter]]
        return (nearest, following.at[letter].add(1)), nearest

    start = (letters[0], jnp.cumsum(outgoing) - outgoing)
    _, walk = jax.lax.scan(step, start, length=len(edges))
    return jnp.concatenate([letters[:1], walk])


def _arborescence(counts: jax.Array, root: jax.Array, key: jax.Array) -> jax.Array:
    """A random tree of edges into the root: each letter's parent; the root's means nothing.

    Its probability is proportional to the number of ways to take it from the multigraph.
    """
    every = jnp.arange(_LETTERS)
    is_root = (every == root)[None]
    absent = counts.sum(1) == 0  # letters that nothing leaves, or reaches, hang on the root
    counts = jnp.where(absent[:, None], is_root.astype(counts.dtype), counts)
    trees = jnp.asarray(_trees())[root]
    ways = jnp.where(is_root, 0, jnp.log(counts[every[None], trees])).sum(1)
    return trees[jax.random.categorical(key, ways)]


@functools.cache
def _trees() -> np.ndarray:
    """All arborescences into each root, as parents (roots, trees, letters); a root is its own."""
    parents = np.array(list(itertools.product(range(_LETTERS), repeat=_LETTERS)))
    reached = parents
    for _ in range(_LETTERS):
        reached = np.take_along_axis(parents, reached, axis=1)
    return np.stack([parents[(reached == root).all(axis=1)] for root in range(_LETTERS)])
