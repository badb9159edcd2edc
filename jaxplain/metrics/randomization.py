"""Sanity checks: an explanation should change where the model or the target does."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._keys import checked
from jaxplain._numerics.trees import wide
from jaxplain.metrics._elsewhere import Drawn, Elsewhere, of_explanation
from jaxplain.metrics._example import Example, Explain, fold
from jaxplain.metrics._metric import Metric
from jaxplain.metrics.agreement import similarity as similarity_of
from jaxplain.metrics.statistics import histogram_entropy

Tree = Any
Redraw = Callable[[jax.Array, Any], jax.Array]

ORDERS = ("top_down", "bottom_up", "independent")


def parameter_randomization(
    explain: Explain | EllipsisType,
    params: Tree,
    *,
    order: str = "top_down",
    similarity: str = "spearman",
    sign: str | None = None,
    reduce: str | None = "mean",
    layers: Sequence[str] | None = None,
    redraw: Redraw | None = None,
) -> Metric:
    r"""Similarity of an explanation with itself where the model's layers are drawn anew: ↓.

    An explanation that stays as it was does not explain the model. Layer after layer is redrawn,
    from the last one down ("top_down") or from the first one up ("bottom_up"), all that were
    redrawn before staying so; or each alone ("independent").

    Args:
      explain: `explain(params, x, *args)` → a tree, e.g. `gradient(f, argnums=1)` of
        f(params, x, ...); `...` in `evaluate`, whose methods are then
        `functools.partial(explain, params)`. `smooth(explain, argnums=1, ...)` is the smooth
        variant, sMPRT.
      params: the parameters, a tree. A layer is the leaves with one parent, such as a kernel and
        its bias; leaves at the root, or in a list there, are layers each.
      order: `"top_down"`, `"bottom_up"` or `"independent"`.
      similarity: of the maps before and after, as `agreement` knows it: "spearman" (of |map|),
        "pearson", "cosine", "ssim"; or "entropy" (eMPRT): the relative rise of
        `metrics.histogram_entropy`, which is ↑.
      sign: "signed", "absolute" or "positive" maps; None: the similarity's own.
      reduce: `"mean"` over layers; `"last"`, with all redrawn; None: one number for each layer,
        in the order in which they are redrawn.
      layers: the layers' paths from the input to the output, as `jax.tree_util.keystr` or a part
        of it that only they have; None: in the tree's order, numbers in names as numbers.
      redraw: `redraw(leaf, key)` → a leaf like it; None: normal numbers of the leaf's mean square,
        so that signals keep their size (and biases of 0 stay).

    Returns:
      `score(x, *args, key=)` → a scalar in [-1, 1] (of entropy anything); NaN where a map is
      constant or not finite. In layers + 1 explanations; in `evaluate` the parameters redrawn are
      the same for all methods and examples.

    Raises:
      TypeError: a key is missing; in `evaluate`, a method that is no such partial.
      ValueError: unknown order, similarity or reduce; layers that are not there.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda params, x: jnp.tanh(x @ params["a"]["w"]) @ params["b"]["w"]
      >>> params = {"a": {"w": jnp.eye(3)}, "b": {"w": jnp.arange(3.0)}}
      >>> explain = jxp.gradient(f, argnums=1)
      >>> score = jxp.parameter_randomization(explain, params, reduce=None)
      >>> score(jnp.ones(3), key=jax.random.key(0)).shape
      (2,)

    Source: Adebayo et al., arXiv 1810.03292, section 4 (cascading and independent); Bansal et al.
    and Binder et al., arXiv 2211.12486 (bottom-up); Hedström et al., arXiv 2401.06465, eqs. 5-7.
    """
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}: one of {ORDERS}")
    if reduce not in ("mean", "last", None):
        raise ValueError(f"unknown reduce {reduce!r}: 'mean', 'last' or None")
    similar = _rise if similarity == "entropy" else similarity_of(similarity, sign)
    _, places = layers_of(params, layers)
    count = max(places) + 1
    chosen = _redrawn_layers(count, order)
    name = ("redrawn", order, id(params), id(redraw), None if layers is None else tuple(layers))

    def elsewhere(example: Example) -> Elsewhere:
        drawn = ready(example)
        return Elsewhere(name, anew=jnp.asarray(chosen), drawn=Drawn(params, drawn, places))

    def ready(example: Example) -> list[jax.Array]:
        """The parameters drawn anew, the same for all examples and methods."""
        what = ("parameters", id(params), id(redraw))
        if what not in example.shared:
            purpose = "the parameters"
            key = fold(checked(example.shared_key, purpose), purpose)
            example.shared[what] = _redrawn(params, redraw, key)
        return example.shared[what]

    def score(example: Example) -> jax.Array:
        after = elsewhere(example).explanations(example)
        before = example.contributions_anywhere()
        scores = jax.vmap(functools.partial(similar, before))(after)
        return {"mean": scores.mean(), "last": scores[-1], None: scores}[reduce]

    called = of_explanation(
        explain if isinstance(explain, EllipsisType) else functools.partial(explain, params)
    )
    ends = (-float("inf"), float("inf")) if similarity == "entropy" else (-1.0, 1.0)
    return Metric(
        score,
        called,
        "↑" if similarity == "entropy" else "↓",
        ends,
        ready=ready,
        elsewhere=elsewhere,
        asks=explain,
    )


def layers_of(params: Tree, layers: Sequence[str] | None = None) -> tuple[list[str], list[int]]:
    """The layers' paths from the input to the output, and the layer of each leaf."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    if not paths:
        raise ValueError("params has no leaves, so there are no layers")
    inner = [path if len(path) <= 1 else path[:-1] for path in paths]
    of_leaf = [jax.tree_util.keystr(path) for path in inner]
    found = sorted(dict.fromkeys(of_leaf), key=_natural)
    if layers is None:
        return found, [found.index(name) for name in of_leaf]
    matches = [[name for name in found if wanted in name] for wanted in layers]
    if any(len(names) != 1 for names in matches) or len(set(map(tuple, matches))) != len(found):
        raise ValueError(
            f"layers must name each layer once, and are {list(layers)}; there are {found}"
        )
    ordered = [names[0] for names in matches]
    return ordered, [ordered.index(name) for name in of_leaf]


def _natural(name: str) -> list[Any]:
    """Numbers in names as numbers: layer 10 is behind layer 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _redrawn_layers(count: int, order: str) -> np.ndarray:
    """(steps, layers) of booleans: which layers are redrawn at a step."""
    below = np.tri(count, dtype=bool)
    if order == "independent":
        return np.eye(count, dtype=bool)
    return below if order == "bottom_up" else below[:, ::-1]


def _redrawn(params: Tree, redraw: Redraw | None, key: Any) -> list[jax.Array]:
    """Each leaf anew: by a function, or as normal numbers of its mean square."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    if redraw is not None:
        keys = jax.random.split(key, len(leaves))
        return [redraw(leaf, k).astype(leaf.dtype) for leaf, k in zip(leaves, keys, strict=True)]
    ends = np.cumsum([leaf.size for leaf in leaves])
    # All in one draw: a program with a draw for each leaf takes long to compile.
    noise = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    return [_like(leaf, part.reshape(leaf.shape)) for leaf, part in zip(leaves, noise, strict=True)]


def _like(leaf: jax.Array, noise: jax.Array) -> jax.Array:
    """Normal numbers of the leaf's mean square; what is not floating stays."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return (jnp.sqrt(jnp.square(wide(leaf)).mean()) * noise).astype(leaf.dtype)


def _rise(before: Tree, after: Tree) -> jax.Array:
    """The relative rise of entropy."""
    start = histogram_entropy(before)
    return (histogram_entropy(after) - start) / jnp.where(start > 0, start, jnp.nan)


def random_logit(
    explain: Explain | EllipsisType,
    classes: int,
    *,
    target: int = 1,
    similarity: str = "spearman",
    sign: str | None = None,
) -> Metric:
    r"""Similarity of an explanation with that of another class, drawn at random: ↓.

    Args:
      explain: `explain(x, target, *args)` → a tree; `...` in `evaluate`, for each of its methods.
      classes: how many there are, ≥ 2.
      target: which argument of explain is the class.
      similarity: as `agreement` knows it: "spearman" (of |map|), "pearson", "cosine" or "ssim".
      sign: "signed", "absolute" or "positive" maps; None: the similarity's own.

    Returns:
      `score(x, target, *args, key=)` → a scalar in [-1, 1]; NaN where a map is constant or not
      finite. In two explanations.

    Raises:
      TypeError: a key is missing.
      ValueError: fewer than two classes; no such argument; unknown similarity.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> w = jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
      >>> explain = lambda x, k: jxp.gradient(jxp.logit(lambda x: w @ x, k))(x)
      >>> score = jxp.metrics.random_logit(explain, 2)
      >>> score(jnp.ones(3), 0, key=jax.random.key(0))
      Array(-0.5, dtype=float32)

    Source: Sixt et al., arXiv 1912.09818, section 3.
    """
    if classes < 2:
        raise ValueError(f"classes must be at least 2, and are {classes}")
    similar = similarity_of(similarity, sign)

    def elsewhere(example: Example) -> Elsewhere:
        if not 0 < target < len(example.args):
            raise ValueError(f"target={target} names no argument behind x of {len(example.args)}")
        given = jnp.asarray(example.args[target])
        key = example.drawn("another class")
        other = (given + jax.random.randint(key, (), 1, classes)) % classes
        args = (*example.args[:target], other.astype(given.dtype), *example.args[target + 1 :])
        one = jax.tree.map(lambda v: jnp.asarray(v)[None], args)
        return Elsewhere(("another class", classes, target), one)

    def score(example: Example) -> jax.Array:
        other = elsewhere(example).explanations(example)
        before = example.contributions_anywhere()
        return similar(before, jax.tree.map(lambda leaf: leaf[0], other))

    return Metric(
        score, of_explanation(explain), "↓", (-1.0, 1.0), elsewhere=elsewhere, asks=explain
    )


def data_randomization(
    explain: Explain,
    params: Tree,
    random_params: Tree,
    *,
    similarity: str = "spearman",
    sign: str | None = None,
) -> Callable[..., jax.Array]:
    r"""Similarity of the maps of two models: one that was fitted, one fitted to random labels: ↓.

    Args:
      explain: `explain(params, x, *args)` → a tree.
      params: the model's parameters.
      random_params: of the same model fitted to labels in random order.
      similarity: as `agreement` knows it: "spearman" (of |map|), "pearson", "cosine" or "ssim".
      sign: "signed", "absolute" or "positive" maps; None: the similarity's own.

    Returns:
      `score(x, *args, **options)` → a scalar in [-1, 1]; NaN where a map is constant or not finite.
      In two explanations; options, such as a key, go to both.

    Raises:
      ValueError: unknown similarity.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jxp
      >>> explain = jxp.gradient(lambda w, x: w @ x, argnums=1)
      >>> a, b = jnp.array([1.0, 2.0, 3.0]), jnp.array([3.0, 2.0, 1.0])
      >>> jxp.metrics.data_randomization(explain, a, b)(jnp.ones(3))
      Array(-1., dtype=float32)

    Source: Adebayo et al., arXiv 1810.03292, section 5.
    """
    similar = similarity_of(similarity, sign)

    def score(*args: Any, **options: Any) -> jax.Array:
        return similar(*(explain(p, *args, **options) for p in (params, random_params)))

    return score
