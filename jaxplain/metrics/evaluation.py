"""One table of all methods by all metrics, from evaluations that are made once."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import _frames as frames
from jaxplain._keys import checked
from jaxplain._numerics.chunking import check_chunk, leading_size
from jaxplain._numerics.loops import program
from jaxplain._numerics.trees import wide
from jaxplain.games.game import as_background
from jaxplain.metrics._elsewhere import explain_everywhere
from jaxplain.metrics._example import Example, Explain, fold, like_input
from jaxplain.metrics._metric import Metric, of_contributions
from jaxplain.metrics.localisation import mask_like
from jaxplain.metrics.table import Evaluations, Table
from jaxplain.surrogate import staging

Tree = Any
Made = dict[Any, dict[str, int]]


def evaluate(
    methods: Mapping[str, Explain | Tree],
    metrics: Mapping[str, Callable[..., Any]],
    xs: Tree,
    *args: Any,
    key: Any = None,
    masks: Tree = None,
    groups: Tree = None,
    controls: Sequence[str] = ("random",),
    chunk: int | None = None,
    progress: bool = True,
) -> Table:
    r"""Every method's scores by every metric, on the same examples and perturbations.

    Each method explains an example once. What several metrics ask for is evaluated once, and what
    no explanation has a part in (subsets, perturbations, the ends of curves) once for all methods;
    masks, perturbations and redrawn parameters are the same for all methods. An example's scores
    depend on it and on the key alone, not on the others, their order or the chunk.

    Args:
      methods: by name, `explain(x, *args)` or `explain(x, *args, key=)`, of one example; or
        contributions made before, a tree like xs. For `parameter_randomization` a method is
        `functools.partial(explain, params)` with explain(params, x, *args).
      metrics: by name, of five kinds: metrics of contributions, such as `deletion(f, ref)`; those
        of an explanation, with `...` in its place, such as `infidelity(f, ..., perturb=draw,
        samples=16)`; those of a map, such as `sparseness`, or of a map and a mask, such as
        `relevance_mass`; and any function `metric(contributions, x, *args)` → scalar of one
        example that JAX can trace. A metric's attribute `direction`, "↑", "↓" or "0", says what is
        better.
      xs: examples, a tree with a leading axis.
      args: of methods and metrics, with a leading axis of examples; numbers without axes are
        shared by all.
      key: for all that is drawn; None: `jax.random.key(0)`.
      masks: booleans that broadcast to xs, for metrics that take one: True where the answer lies.
      groups: a tree like x of integer labels, for metrics that take them and have none of their
        own.
      controls: rows of no method: "random", normal numbers, drawn anew wherever a method would
        explain anew; "constant", ones.
      chunk: how many examples are evaluated at once; None all. A metric's own chunk bounds the
        evaluations for each of them.
      progress: show a tqdm bar where tqdm is installed.

    Returns:
      A `metrics.Table`: `.scores` (methods, metrics, examples), `.mean()`, `.interval()`,
      `.difference(a, b)`, `.best()`, `.ranks()`, `.agreement()`, `.undefined`, `.evaluations`,
      `.plot()`, `.to_markdown()`, `.to_pandas()`. The controls' rows are the last.

    Raises:
      TypeError: a metric or method that is none; masks that are not boolean; a metric that explains
        elsewhere, and contributions alone are given.
      ValueError: contributions of another shape than x; no masks where a metric takes them; names
        that methods and controls share; arguments without a common leading axis; chunk < 1.

    Warns:
      UserWarning: a method explains against the reference that a metric puts inputs to: metrics
        favour such methods. References that a method computes by JAX are not known and not told.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jnp.tanh(x) @ jnp.array([3.0, -2.0, 1.0])
      >>> xs = jax.random.normal(jax.random.key(0), (20, 3))
      >>> table = jxp.evaluate(
      ...     {"gradient": jxp.gradient(f), "DeepLIFT": jxp.deeplift(f, 0.5)},
      ...     {"deletion": jxp.deletion(f, 0.0), "sparseness": jxp.sparseness},
      ...     xs, progress=False)
      >>> table.best()["deletion"], table.scores.shape
      ('DeepLIFT', (3, 2, 20))

    Source: the metrics' own; the warning is of Tomsett et al., arXiv 1912.01451, and of issue 2 of
    Sturmfels et al. (Distill, 2020): what is absent decides what is important.
    """
    check_chunk(chunk)
    key = jax.random.key(0) if key is None else checked(key, "all that is drawn")
    xs = jax.tree.map(np.asarray, frames.as_arrays(xs))
    count = leading_size(xs)
    everyone = _with_controls(methods, controls, xs)
    named = {name: _as_metric(name, metric) for name, metric in metrics.items()}
    if not named or not everyone:
        raise ValueError("give at least one method and one metric")
    if masks is not None:
        masks = jax.tree.map(np.asarray, mask_like(masks, xs))
    items = _Items((xs, *(_per_example(arg, count) for arg in args)), _keys(key, xs), masks)
    run = _Run(list(named.values()), key, groups)
    scores = np.full((len(everyone), len(named), count), np.nan)
    size = min(count if chunk is None else chunk, count)
    starts = [min(start, count - size) for start in range(0, count, size)]
    with _bar(len(starts) * size * len(everyone), progress) as advance:
        for start in starts:  # the last chunk begins earlier, to be as long as the others
            rows = slice(start, start + size)
            part = items.rows(rows)
            known = run.share(part)
            for i, (name, method) in enumerate(everyone.items()):
                given = None if callable(method) else jax.tree.map(lambda v: v[rows], method)
                explained = run.explain(name, method, part, known, given)
                scores[i, :, rows] = np.asarray(run.score(part, known, explained)).T
                advance(size)
    _warn_of_references(run, everyone, named, jax.tree.map(lambda v: v[0], xs))
    return Table(
        scores,
        tuple(everyone),
        tuple(named),
        tuple(metric.direction for metric in named.values()),
        tuple(everyone)[len(methods) :],
        run.counted(len(everyone), count),
    )


@jax.tree_util.register_dataclass
@dataclass
class _Items:
    """Examples: their arguments, keys and masks, each with a leading axis."""

    args: tuple[Any, ...]
    keys: Any
    masks: Tree

    def rows(self, rows: slice) -> _Items:
        return jax.tree.map(lambda v: v[rows], self)


@dataclass
class _Run:
    """The three programs: what methods share, what one explains, and the scores.

    The first and the last are compiled once for all methods.
    """

    metrics: list[Metric]
    key: Any
    groups: Tree
    made: dict[str, Made] = field(default_factory=dict)  # by program
    alone: list[Made] = field(default_factory=list)  # what each metric would make by itself
    names: dict[str, list[Any]] = field(default_factory=dict)  # of what each program found
    references: dict[str, list[Tree]] = field(default_factory=dict)  # that a method explains by
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)
    drawn: dict[Any, Any] = field(default_factory=dict)  # what all examples share

    def __post_init__(self) -> None:
        """Draws it once, outside of all programs."""
        for metric in self.metrics:
            metric.ready(Example((), key=self.key, shared=self.drawn))

    def share(self, items: _Items) -> list[Any]:
        """What no explanation has a part in."""

        def one(item: _Items) -> list[Any]:
            example = self._example(item)
            for metric in self.metrics:
                metric.share(example)
            return self._found("share", example)

        return self._run("share", one, items)

    def explain(
        self, name: str, method: Explain, items: _Items, known: list[Any], given: Tree
    ) -> list[Any]:
        """A method's explanations, at x and wherever metrics ask for them."""
        explain = None if given is not None else _uncompiled(method)

        def one(item: _Items, known: list[Any], given: Tree) -> list[Any]:
            found = dict(zip(self.names["share"], known, strict=True))
            example = self._example(item, explain=explain, contributions=given, known=found)
            wanted = [metric.elsewhere(example) for metric in self.metrics]
            explain_everywhere(example, [each for each in wanted if each is not None])
            try:
                like_input(example.contributions_anywhere(), item.args[0])
            except ValueError as error:
                raise ValueError(f"{name!r}: {error}") from None
            return self._found("explain", example)

        with staging.watched_references() as seen:
            found = self._run(("explain", name), one, items, known, given)
        self.references.setdefault(name, seen)
        return found

    def score(self, items: _Items, known: list[Any], explained: list[Any]) -> Any:
        """(examples, metrics)."""

        def one(item: _Items, known: list[Any], explained: list[Any]) -> Any:
            pairs = zip(
                [*self.names["share"], *self.names["explain"]], [*known, *explained], strict=True
            )
            example = self._example(item, known=dict(pairs))
            for metric in self.metrics:
                metric.announce(example)
            scores = []
            self.alone = []
            for metric in self.metrics:
                example.asked = {}
                scores.append(metric.score(example))
                self.alone.append(example.asked)
            self.made["score"] = example.made
            return jnp.stack([_number(score) for score in scores])

        return self._run("score", one, items, known, explained)

    def counted(self, methods: int, examples: int) -> Evaluations:
        """What was made, beside what each metric would need by itself."""
        total = lambda made, what: sum(counts.get(what, 0) for counts in made.values())
        return Evaluations(
            once=total(self.made["share"], "evaluations"),
            each=total(self.made["score"], "evaluations"),
            explanations=total(self.made["explain"], "explanations"),
            alone=sum(total(made, "evaluations") for made in self.alone),
            explanations_alone=sum(total(made, "explanations") for made in self.alone),
            methods=methods,
            examples=examples,
        )

    def _example(self, item: _Items, **known: Any) -> Example:
        return Example(
            item.args,
            key=item.keys,
            shared_key=self.key,
            mask=item.masks,
            groups=self.groups,
            shared=self.drawn,
            **known,
        )

    def _found(self, part: str, example: Example) -> list[Any]:
        """What a program found beside what methods share, its names put down."""
        shared = () if part == "share" else self.names["share"]
        names = [name for name in example.known if name not in shared]
        self.names[part], self.made[part] = names, example.made
        return [example.known[name] for name in names]

    def _run(self, name: Any, one: Callable[..., Any], *items: Any) -> Any:
        """Of a chunk; compiled at the first one, with what it closes over as operands."""
        if name not in self.programs:
            self.programs[name] = program(jax.vmap(one), *items)
        return self.programs[name](*items)


def _random(x: Tree, *args: Any, key: Any) -> Tree:
    """Normal numbers."""
    leaves, tree = jax.tree.flatten(x)
    keys = jax.random.split(fold(key, "a random map"), len(leaves))
    dtype = lambda v: v.dtype if jnp.issubdtype(v.dtype, jnp.floating) else jnp.result_type(float)
    noise = [jax.random.normal(k, v.shape, dtype(v)) for k, v in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, noise)


def _constant(x: Tree, *args: Any, key: Any) -> Tree:
    """Ones."""
    return jax.tree.map(lambda v: jnp.ones(v.shape), x)


_random.control = _constant.control = True  # type: ignore[attr-defined]
_CONTROLS = {"random": _random, "constant": _constant}


def _with_controls(methods: Mapping[str, Any], controls: Sequence[str], xs: Tree) -> dict[str, Any]:
    """All rows of the table, each explanation or contributions checked to be such."""
    unknown = [name for name in controls if name not in _CONTROLS]
    if unknown:
        raise ValueError(f"unknown controls {unknown}: of {tuple(_CONTROLS)}")
    twice = set(methods) & set(controls)
    if twice:
        raise ValueError(f"{sorted(twice)} name methods and controls")
    found: dict[str, Any] = {}
    for name, method in methods.items():
        try:
            found[name] = method if callable(method) else like_input(method, xs)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from None
    return found | {name: _CONTROLS[name] for name in controls}


def _as_metric(name: str, metric: Any) -> Metric:
    """A metric of any kind as one that says what it asks for."""
    if isinstance(metric, Metric):
        if metric.asks not in (None, ...):
            raise ValueError(
                f"{name!r} has an explanation of its own; write ... in its place, for each method"
            )
        return metric
    if not callable(metric):
        raise TypeError(f"{name!r} is a {type(metric).__name__}, and a metric is a function")
    inner = metric.func if isinstance(metric, functools.partial) else metric
    direction, ends = getattr(inner, "direction", None), getattr(inner, "range", (-np.inf, np.inf))
    try:
        parameters = inspect.signature(metric).parameters
    except (TypeError, ValueError):
        parameters = inspect.signature(lambda contributions, *args: None).parameters
    if next(iter(parameters), "") == "explain":  # such as partial(max_sensitivity, radius=0.1)
        return _as_metric(name, metric(...))
    if "mask" in parameters:

        def score(example: Example) -> Any:
            if example.mask is None:
                raise ValueError(f"{name!r} takes masks: give masks=")
            return metric(example.contributions_anywhere(), example.mask)

    elif len(parameters) == 1 or getattr(inner, "takes", None) == "map":

        def score(example: Example) -> Any:
            return metric(example.contributions_anywhere())

    else:

        def score(example: Example) -> Any:
            options = {"key": example.drawn("a metric")} if "key" in parameters else {}
            return metric(example.contributions_anywhere(), *example.args, **options)

    return Metric(score, of_contributions, direction, ends)


def _number(score: Any) -> Any:
    if jnp.shape(score) != ():
        raise ValueError(
            f"a table holds a number for each metric, and one returns an array {jnp.shape(score)}: "
            "aggregate its parts"
        )
    return wide(jnp.asarray(score))


def _per_example(arg: Any, count: int) -> Any:
    """An argument with a leading axis of examples; a number is everyone's."""
    arrays = jax.tree.map(np.asarray, frames.as_arrays(arg))

    def spread(leaf: np.ndarray) -> np.ndarray:
        if not leaf.ndim:
            return np.broadcast_to(leaf, (count,))
        if len(leaf) != count:
            raise ValueError(
                f"an argument has the shape {leaf.shape}, and there are {count} examples: "
                "arguments have a leading axis of examples (what all share, functions close over)"
            )
        return leaf

    return jax.tree.map(spread, arrays)


def _keys(key: Any, xs: Tree) -> Any:
    """A key for each example, from what it is: its place in the batch has no part in it."""
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(xs)]

    def mark(i: int) -> int:
        return functools.reduce(lambda crc, v: zlib.crc32(v[i].tobytes(), crc), leaves, 0)

    marks = np.array([mark(i) for i in range(len(leaves[0]))], np.uint32)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(marks)


def _uncompiled(method: Explain) -> Explain:
    """A jitted method as the function that it was: all is compiled anew, and is watched."""
    if isinstance(method, functools.partial):
        return functools.partial(_uncompiled(method.func), *method.args, **method.keywords)
    inner = getattr(method, "__wrapped__", None)
    return inner if inner is not None and hasattr(method, "lower") else method


def _warn_of_references(
    run: _Run, methods: Mapping[str, Any], metrics: Mapping[str, Metric], x: Tree
) -> None:
    """Says which methods explain by a reference that a metric puts inputs to."""
    shared: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        if metric.ref is None or callable(metric.ref):
            continue
        ours = as_background(metric.ref, x)
        users = [
            method
            for method in methods
            if any(_same_reference(ref, ours, x) for ref in run.references.get(method, ()))
        ]
        if users:
            shared.setdefault(", ".join(map(repr, users)), []).append(name)
    if shared:
        told = "; ".join(f"{', '.join(names)} with {users}" for users, names in shared.items())
        warnings.warn(
            f"metrics and methods share a reference: {told}. A metric favours methods that explain "
            "by what it puts inputs to: compare with the table of another reference.",
            stacklevel=3,
        )


def _same_reference(ref: Tree, ours: Tree, x: Tree) -> bool:
    try:
        theirs = as_background(ref, x)
    except (TypeError, ValueError):  # of something else than x, such as a value inside
        return False
    leaves = zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True)
    return all(a.shape == b.shape and bool((a == b).all()) for a, b in leaves)


@contextlib.contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[int], Any]]:
    """A progress bar's update, or nothing where there is none."""
    try:
        from tqdm import tqdm
    except ImportError:
        show = False
    if not show:
        yield lambda done: None
        return
    with tqdm(total=total, unit="explanation", desc="evaluate") as bar:
        yield bar.update
