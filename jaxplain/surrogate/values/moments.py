"""The value of the moment tables: a mean at each of several nodes, and one variance for all.

A coalition in which every player is with probability t makes a value random.  Its mean at node k is
`means[k]`; its variance there is c_k · `variance`, with c_k = t_k (1 - t_k).  As t varies the
variance changes by (1 - 2 t_k) · `variance`: what arrives at a node's variance goes back with that
factor and not with c_k, so that one cotangent of the shared variance serves all nodes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.surrogate.backward import with_backward
from jaxplain.surrogate.program import Equation
from jaxplain.surrogate.values.lifted import Lifted
from jaxplain.surrogate.values.pair import Paired
from jaxplain.surrogate.values.region import Expression, Region


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Where the means are taken.

    Args:
      variances: c_k = t_k (1 - t_k), the share of the variance that a node sees.
      slopes: 1 - 2 t_k, how that share changes with t.
      weights: those of averages over nodes, which sum to 1.
      drifts: whether it counts, too, that means move the variance further on by its slopes.
    """

    variances: tuple[float, ...]
    slopes: tuple[float, ...]
    weights: tuple[float, ...]
    drifts: bool = False

    def __len__(self) -> int:
        return len(self.weights)

    def spread(self, variance: Any) -> Any:
        """The variance at each node."""
        return _beside(self.variances, variance) * variance[None]

    def average(self, arrays: Any) -> Any:
        """The mean over nodes."""
        return _weighed(self.weights, arrays)

    def gathered(self, cotangents: Any) -> Any:
        """The shared variance's cotangent from those of the nodes' variances."""
        return _weighed(self.slopes, cotangents)

    def gathered_drift(self, cotangents: Any) -> Any:
        """The cotangent of what moves the variance itself."""
        return _weighed(self.variances, cotangents)

    def scattered(self, cotangent: Any) -> Any:
        """Each node's part of the cotangent of an average."""
        return _beside(self.weights, cotangent) * cotangent[None]


def _weighed(weights: Sequence[float], arrays: Any) -> Any:
    """The weighted sum along the first axis; few terms, which the compiler fuses with the rest."""
    terms = [jnp.asarray(weight, arrays.dtype) * arrays[k] for k, weight in enumerate(weights)]
    return functools.reduce(jnp.add, terms)


def _typed(numbers: Sequence[float], like: Any) -> Any:
    return jnp.asarray(numbers, jnp.result_type(like))


def _beside(numbers: Sequence[float], array: Any) -> Any:
    return _typed(numbers, array).reshape(-1, *(1,) * jnp.ndim(array))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["means", "variance", "drift"],
    meta_fields=["nodes"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Moments(Paired):
    """Means (nodes, *shape) and a variance like the value; integers and booleans have none.

    `drift` are zeros beside the variance (None if nodes know no drifts).  What arrives at them says
    what a change of the variance itself is worth, at the same t: where slopes carry the variance
    on, it goes to the means that they are taken at.
    """

    means: Any
    variance: Any
    nodes: Nodes
    drift: Any = None

    needs_reference = False

    @classmethod
    def constant(cls, value: Any, like: Lifted | None = None) -> Moments:
        if not isinstance(like, Moments | Function):
            raise TypeError("a constant has as many nodes as what is beside it")
        return cls.certain(jnp.broadcast_to(value, (len(like.nodes), *jnp.shape(value))), like)

    @classmethod
    def certain(cls, means: Any, like: Moments | Function) -> Moments:
        """A value without variance."""
        dtype = jnp.result_type(means)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return cls(means, None, like.nodes)
        return cls.begin(means, jnp.zeros(means.shape[1:], jnp.finfo(dtype).dtype), like.nodes)

    @classmethod
    def begin(cls, means: Any, variance: Any, nodes: Nodes) -> Moments:
        """A value whose variance nothing before it moves."""
        return cls(means, variance, nodes, jnp.zeros_like(variance) if nodes.drifts else None)

    @classmethod
    def rows(cls, lifted: Moments) -> Moments:
        return dataclasses.replace(lifted, means=jnp.moveaxis(lifted.means, 1, 0))

    @classmethod
    def stacked(cls, lifted: Moments) -> Moments:
        return dataclasses.replace(lifted, means=jnp.moveaxis(lifted.means, 0, 1))

    @property
    def value(self) -> Any:
        """The means, of what only looks at a value."""
        return self.means

    @property
    def at_reference(self) -> Any:
        return self.means[0]

    @property
    def dtype(self) -> Any:
        return jnp.result_type(self.means)

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.means)[1:]

    def through(self, move: Callable[[Any], Any]) -> Moments:
        """After a move of elements."""
        parts = (None if part is None else move(part) for part in (self.variance, self.drift))
        return Moments(jax.vmap(move)(self.means), next(parts), self.nodes, next(parts))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["start", "directions", "variance", "players"],
    meta_fields=["places", "nodes"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Segment(Lifted):
    """A value that is affine in the input: start + Σ_c places[k][c] · directions[c] at node k.

    It waits with its means, so that the first learned map is applied to a few directions and not
    to every node, and on the way back once to the sum of what arrives at the nodes.  What arrives
    at `start` is that sum; directions are constants.

    Where a player has several elements, `players` are the changes that each player makes, and
    `variance` weighs their squares: one number a player, whose cotangent is its share.
    """

    waiting = True

    start: Any
    directions: Any
    variance: Any
    players: Any
    places: tuple[tuple[float, ...], ...]
    nodes: Nodes

    @property
    def dtype(self) -> Any:
        return jnp.result_type(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.start)

    @functools.cached_property
    def _settled(self) -> Moments:
        moved = jnp.tensordot(jnp.asarray(self.places, self.dtype), self.directions, 1)
        variance = self.variance
        if self.players is not None:
            variance = jnp.tensordot(variance, jnp.square(self.players), 1).astype(self.dtype)
        return Moments.begin(self.start[None] + moved, variance, self.nodes)

    def settle(self) -> Moments:
        return self._settled

    def after(
        self, move: Callable[[Any], Any], along: Callable[[Any], Any], squared: Callable[[Any], Any]
    ) -> Segment:
        """After an equation that is affine: at a value, of a difference, and of a variance."""
        known = self.players
        return dataclasses.replace(
            self,
            start=move(self.start),
            directions=jax.vmap(along)(self.directions),
            variance=squared(self.variance) if known is None else self.variance,
            players=None if known is None else jax.vmap(along)(known),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Function(Region):
    """An elementwise function of one value, or a boolean of several, that nobody has asked for."""

    @property
    def nodes(self) -> Nodes:
        return self.roots[0].nodes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.roots[0].shape

    @functools.cached_property
    def value(self) -> Any:
        """What it is at the means of its roots."""
        return self.means

    @property
    def means(self) -> Any:
        """The same."""
        return self.at([root.means for root in self.roots])

    def at(self, roots: Sequence[Any]) -> Any:
        """The expression at values of its roots with a leading axis."""
        expression = Expression(self)
        return jax.vmap(lambda roots: expression.evaluate(roots, expression.constants))(list(roots))

    @property
    def reference(self) -> Any:
        raise AttributeError("a value by moments has no reference")

    @functools.cached_property
    def _settled(self) -> Any:
        return self.settle_by(self)


def still(spread: Callable[[Any, Any], Any], drifts: Any, weight: Any) -> Any:
    """Zeros like `spread(drifts, weight)`, linear; what arrives at them goes back by it."""

    def forward(drifts: Any, weight: Any) -> Any:
        found = jax.eval_shape(spread, drifts, weight)
        return jnp.zeros(found.shape, found.dtype), (drifts, weight)

    def backward(saved: Any, cotangent: Any) -> Any:
        drifts, weight = saved
        return jax.linear_transpose(lambda d: spread(d, weight), drifts)(cotangent)[0]

    return with_backward(forward, backward)(drifts, weight)


def at_nodes(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """An equation's outputs at the means of every node."""
    lifted = [isinstance(operand, Moments) for operand in operands]
    arrays = [o.means if isinstance(o, Moments) else o for o in operands]
    return jax.vmap(equation.bind, [0 if is_lifted else None for is_lifted in lifted])(*arrays)
