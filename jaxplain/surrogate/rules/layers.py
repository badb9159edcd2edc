"""What each rule of LRP sends through a layer y = a ⊙ g(x, w) + c, in multipliers m = R/value.

With R_j = y_j m_j every rule forms ratios from the forward pass and sends signals u = ratio · m
back through the layer with other weights; L = a ⊙ g(·, w), and L⁺, L⁻ are its parts of one sign.
Source: Bach et al., 10.1371/journal.pone.0130140, eqs. 56-62; Montavon et al., "Layer-wise
relevance propagation: an overview", 2019, table 10.1, for inputs of both signs as in zennit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

Apply = Callable[[Any, Any], Any]  # array, weights → g(array, weights)


@dataclasses.dataclass(frozen=True)
class Affine:
    """The layer at x.

    Args:
      apply: g, linear in each of its operands.
      x: what goes in.
      weight: w, or None of a sum.
      scale: a, None where it is 1.
      shift: c, None where it is 0.
      positive: whether x is known not to be negative.
      above: whether nothing arrives at outputs below 0.
      y: what comes out; None on the way back.
    """

    apply: Apply
    x: Any
    weight: Any
    scale: Any
    shift: Any
    positive: bool
    above: bool = False
    y: Any = None

    @property
    def without_shift(self) -> Any:
        """Lx."""
        return self.y if self.shift is None else self.y - self.shift

    def parts(self, both: bool = True) -> tuple[Any, Any]:
        """(P, N) = (L⁺x⁺ + L⁻x⁻, L⁻x⁺ + L⁺x⁻), or P alone."""
        up, down = _split(self.weight)
        both = both or self.scale is not None

        def of(first: Any, second: Any) -> Any:
            if self.positive:
                return self.apply(self.x, first)
            above, below = _split(self.x)
            return self.apply(above, first) + self.apply(below, second)

        return self._aligned(of(up, down), of(down, up) if both else None)

    def back(self, signal: Any, weight: Any) -> Any:
        """The layer with these weights, backwards; the scale is the signal's."""
        return jax.linear_transpose(lambda x: self.apply(x, weight), self.x)(signal)[0]

    def scaled(self, signal: Any) -> Any:
        """a ⊙ signal."""
        return signal if self.scale is None else self.scale * signal

    def back_by_sign(self, for_positive: Any, for_negative: Any) -> Any:
        """L⁺ᵀu_P + L⁻ᵀu_N where x ≥ 0, and L⁻ᵀu_P + L⁺ᵀu_N where x < 0; either may be None."""
        signals = self._aligned(for_positive, for_negative)
        up, down = _split(self.weight)

        def both(first: Any, second: Any) -> Any:
            found = [self.back(u, w) for u, w in ((signals[0], first), (signals[1], second))
                     if u is not None]  # fmt: skip
            return sum(found[1:], found[0])

        if self.positive:
            return both(up, down)
        return jnp.where(self.x >= 0, both(up, down), both(down, up))

    def _aligned(self, up: Any, down: Any) -> tuple[Any, Any]:
        """(a⁺u + a⁻v, a⁻u + a⁺v)."""
        if self.scale is None:
            return up, down
        above, below = _split(self.scale)
        if down is None:
            return above * up, below * up
        return above * up + below * down, below * up + above * down


def _split(array: Any) -> tuple[Any, Any]:
    return jnp.maximum(array, 0), jnp.minimum(array, 0)


def share(y: Any, denominator: Any, epsilon: float) -> Any:
    """y/(d + ε sgn d), with sgn 0 = 1; 0 where that is 0/0."""
    stable = denominator + jnp.where(denominator >= 0, epsilon, -epsilon).astype(denominator.dtype)
    zero = stable == 0
    return jnp.where(zero, 0, y / jnp.where(zero, 1, stable))


def _plus(a: Any, b: Any) -> Any:
    return a if b is None else a + b


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """How relevance goes through a layer; `emits` says that R comes out, and not R/x.

    Args:
      epsilon: the stabiliser ε.
      bias: whether the constants of a layer take relevance, which then is lost.
    """

    epsilon: float = 1e-6
    bias: bool = True

    emits: ClassVar[bool] = False

    @property
    def plain(self) -> bool:
        """Whether it is the layer's own derivative."""
        return False

    def ratios(self, layer: Affine) -> Any:
        """What times m is sent back, a tree of arrays like y."""
        raise NotImplementedError

    def back(self, layer: Affine, signals: Any) -> Any:
        """The multiplier of x, or its relevance."""
        raise NotImplementedError

    def shifts(self, layer: Affine) -> tuple[Any, Any]:
        """(c⁺, c⁻), or None for each where it doesn't count."""
        return (None, None) if layer.shift is None or not self.bias else _split(layer.shift)


class Epsilon(LayerRule):
    """m_i = Σ_j L_ji y_j m_j/(y_j + ε sgn y_j)."""

    @property
    def plain(self) -> bool:
        return self.epsilon == 0 and self.bias

    def ratios(self, layer: Affine) -> Any:
        return share(layer.y, layer.y if self.bias else layer.without_shift, self.epsilon)

    def back(self, layer: Affine, signals: Any) -> Any:
        return layer.back(layer.scaled(signals), layer.weight)


class ZPlus(LayerRule):
    """m_i = Σ_j L⁺_ji y_j m_j/(P_j + c⁺_j + ε) where x_i ≥ 0, with L⁻ where x_i < 0."""

    def ratios(self, layer: Affine) -> Any:
        positive = _plus(layer.parts(both=False)[0], self.shifts(layer)[0])
        return share(layer.y, positive, self.epsilon)

    def back(self, layer: Affine, signals: Any) -> Any:
        return layer.back_by_sign(signals, None)


@dataclasses.dataclass(frozen=True)
class AlphaBeta(LayerRule):
    """α times the rule of the positive parts less β times that of the negative ones."""

    alpha: float = 2.0
    beta: float = 1.0

    def ratios(self, layer: Affine) -> Any:
        (up, down), shifts = layer.parts(), self.shifts(layer)
        return (
            self.alpha * share(layer.y, _plus(up, shifts[0]), self.epsilon),
            -self.beta * share(layer.y, _plus(down, shifts[1]), self.epsilon),
        )

    def back(self, layer: Affine, signals: Any) -> Any:
        return layer.back_by_sign(*signals)


@dataclasses.dataclass(frozen=True)
class Gamma(LayerRule):
    """L + γL⁺ (where x ≥ 0; L + γL⁻ where x < 0) of outputs y > 0, and the reverse of y < 0."""

    gamma: float = 0.25

    def ratios(self, layer: Affine) -> Any:
        y = layer.y if self.bias else layer.without_shift
        # y + γ(N + c⁻) of outputs y < 0, where N + c⁻ = y - (P + c⁺): two terms of one sign.
        up = self.gamma * _plus(layer.parts(both=False)[0], self.shifts(layer)[0])
        above = jnp.where(layer.y > 0, share(layer.y, y + up, self.epsilon), 0)
        if layer.above:
            return above, None
        below = share(layer.y, (1 + self.gamma) * y - up, self.epsilon)
        return above, jnp.where(layer.y < 0, below, 0)

    def back(self, layer: Affine, signals: Any) -> Any:
        above, below = signals
        more = 1 + self.gamma
        if below is not None:
            return layer.back_by_sign(more * above + below, above + more * below)
        if layer.positive and layer.scale is None:  # both signs of weights in one product
            return layer.back(above, layer.weight + self.gamma * jnp.maximum(layer.weight, 0))
        return layer.back_by_sign(more * above, above)


class WSquare(LayerRule):
    """R_i = Σ_j L_ji² R_j/(Σ_k L_jk² + c_j²)."""

    emits = True

    def ratios(self, layer: Affine) -> Any:
        squares = layer.apply(jnp.ones_like(layer.x), jnp.square(layer.weight))
        if layer.scale is not None:
            squares = jnp.square(layer.scale) * squares
        if layer.shift is not None and self.bias:
            squares = squares + jnp.square(layer.shift)
        return share(layer.y, squares, self.epsilon)

    def back(self, layer: Affine, signals: Any) -> Any:
        return layer.back(layer.scaled(layer.scaled(signals)), jnp.square(layer.weight))


class Flat(LayerRule):
    """R_i = Σ_j R_j/n_j, shared by the n_j elements that output j sees."""

    emits = True

    def ratios(self, layer: Affine) -> Any:
        ones = jnp.ones_like(layer.weight)
        return share(layer.y, layer.apply(jnp.ones_like(layer.x), ones), self.epsilon)

    def back(self, layer: Affine, signals: Any) -> Any:
        return layer.back(signals, jnp.ones_like(layer.weight))


@dataclasses.dataclass(frozen=True)
class ZBox(LayerRule):
    """R_i = Σ_j (x_i L_ji - l_i L⁺_ji - h_i L⁻_ji) R_j/Σ_k(…), for inputs between l and h."""

    low: Any = -1.0
    high: Any = 1.0

    emits = True

    def ratios(self, layer: Affine) -> Any:
        low, high = self._box(layer)
        up, down = _split(layer.weight)
        if layer.scale is None:
            corner = layer.apply(low, up) + layer.apply(high, down)
        else:
            above, below = _split(layer.scale)
            corner = above * (layer.apply(low, up) + layer.apply(high, down)) + below * (
                layer.apply(low, down) + layer.apply(high, up)
            )
        return share(layer.y, layer.without_shift - corner, self.epsilon)

    def back(self, layer: Affine, signals: Any) -> Any:
        low, high = self._box(layer)
        up, down = _split(layer.weight)
        if layer.scale is None:
            of_up, of_down = layer.back(signals, up), layer.back(signals, down)
        else:
            above, below = (part * signals for part in _split(layer.scale))
            of_up = layer.back(above, up) + layer.back(below, down)
            of_down = layer.back(above, down) + layer.back(below, up)
        return (layer.x - low) * of_up + (layer.x - high) * of_down

    def _box(self, layer: Affine) -> Sequence[Any]:
        return [jnp.broadcast_to(jnp.asarray(v, layer.x.dtype), layer.x.shape)
                for v in (self.low, self.high)]  # fmt: skip
