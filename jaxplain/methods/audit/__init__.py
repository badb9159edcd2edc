"""An explanation's account, equation by equation: which rule, what it chose, what it lost."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain._speaking import speaks
from jaxplain._types import Argnums, Function, Tree
from jaxplain.methods.audit.report import Audit, Row, hurts
from jaxplain.methods.audit.watching import Entry, Key, Probe, Watch
from jaxplain.surrogate import RuleTable, compat, staging
from jaxplain.surrogate.interpreter import interpret
from jaxplain.surrogate.rules.by_name import by_name
from jaxplain.surrogate.values.lifted import Lifted, settled

Arrays = Sequence[jax.Array]


@speaks
def audit(
    f: Function,
    ref: Tree,
    *,
    rules: str | RuleTable = "rescale",
    argnums: Argnums = 0,
) -> Callable[..., Audit]:
    r"""The account of a DeepLIFT explanation: what the rule of each equation did.

    With m the multipliers that really arrive in f's own backward pass, a rule owes

      Σ m Δ of its operands = Σ m Δ of its outputs;

    the difference is its local gap; all of them add up to the explanation's, but for what is frozen
    (`jax.lax.stop_gradient`), which has no row.  Its conditioning is Σ|m Δ| of the operands in
    units of that of the outputs: how much larger than their sums the terms are that cancel in it.

    Args:
      f: `f(x, *args)` → scalar, as in `deeplift`.
      ref: the reference input: a scalar, or a tree like x whose leaves broadcast to x's.
      rules: the name of a table with a reference, or the RuleTable.
      argnums: which argument(s) of f are x, as in `jax.grad`.

    Returns:
      `audit(f, ref)(x, *args)` → an `Audit`: `print` it, or read `.rows` (each a `Row`), `.value`,
      `.reference`, `.contributions` and `.gap`; `.to_pandas()` is a dataframe.

      A row is an equation that real numbers flow through, or a region of elementwise equations,
      with all that it contains. First come those whose gap is large beside f(x) - f(ref), then
      those that cancel most. Inside a scan the steps are summed and choices averaged; the loop
      itself has no row, nor has a call with a derivative of its own that is looked into.

      Choices are told where a rule chooses by the sizes of its numbers: of a product c·s (and a
      quotient, c·(1/s)) the share of s₀Δc + cΔs in it, ½ for Shapley values, the rest being
      sΔc + c₀Δs; of a region the elements that follow Δy/Δx and those that follow the derivative,
      since there Δy/Δx is rounding; of a maximum the outputs that go to x's winner and to the
      reference's. What a backward pass chooses by what arrives (the correction of a path integral)
      can't be told, nor what tables on values in parts choose. The numbers are concrete: it can't
      be jitted or vmapped.

    Raises:
      ValueError: the table knows no reference, or ref does not broadcast to x.
      TypeError: f is not scalar-valued, or x is not made of floating arrays, or is traced.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jxp
      >>> f = lambda x: jnp.tanh(x[0] * x[1])
      >>> account = jxp.audit(f, 0.0)(jnp.array([0.5, 2.0]))
      >>> sorted(row.rule for row in account.rows if row.rule != "linear")
      ['product', 'region']

    Source: Shrikumar et al., arXiv 1704.02685, eq. 3, of every equation.
    """
    table = by_name(rules)
    if not table.lifted.needs_reference:
        raise ValueError("an audit is of differences from a reference, and this table knows none")
    name = rules if isinstance(rules, str) else "of a RuleTable"

    def account(*args: Any) -> Audit:
        staged = staging.stage(f, args, argnums)
        x = jax.tree.unflatten(jax.tree.structure(staging.pick(args, argnums)), staged.leaves)
        references = jax.tree.leaves(staging.as_reference(ref, x))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in (*staged.leaves, *references)):
            raise TypeError("an audit gives numbers, and can't be traced: call it outside jit")
        entries, measured = _Reading(table, staged).measured(references)
        return _reported(name, entries, jax.tree.map(np.asarray, measured))

    return account


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    """The program, read under the table: once for its rows, and again with a probe for each."""

    table: RuleTable
    staged: staging.Staged

    def measured(self, references: Arrays) -> tuple[dict[Key, Entry], Any]:
        """The rows, and all numbers."""
        first: list[Watch] = []

        def rows(leaves: Arrays, references: Arrays) -> Any:
            moving = self.moving(leaves, references)
            outputs, watch = self.read(moving, leaves, references, {})
            first.append(watch)
            return outputs

        leaves = list(self.staged.leaves)
        shapes = jax.eval_shape(rows, leaves, references)
        staging.check_scalar(jax.tree.unflatten(self.staged.tree, shapes))
        probes = first[0].probes()
        # Keys are no pytree's: tuples of what can't be compared.
        numbers = jax.jit(functools.partial(self.numbers, tuple(probes)))
        return first[0].entries, numbers(leaves, references, list(probes.values()))

    def numbers(
        self, keys: Sequence[Key], leaves: Arrays, references: Arrays, probes: Sequence[Probe]
    ) -> dict[str, Any]:
        """f at both ends, the contributions' sums, and what each probe received."""

        def function(moving: Any, probes: Sequence[Probe]) -> Arrays:
            given = dict(zip(keys, probes, strict=True))
            return self.read(moving, leaves, references, given)[0]

        value, vjp = jax.vjp(function, self.moving(leaves, references), probes)
        multipliers, received = vjp(list(map(jnp.ones_like, value)))
        if self.table.lifted.detached:
            multipliers = map(self.table.lifted.merge, multipliers, leaves, references)
        ends = zip(multipliers, leaves, references, strict=True)
        return {
            "value": value,
            "reference": compat.evaluate(self.staged.jaxpr, references),
            "contributions": [jnp.sum(m * (v - v0)) for m, v, v0 in ends],
            "received": received,
        }

    def moving(self, leaves: Arrays, references: Arrays) -> list[Any]:
        """What is differentiated: the values, or their parts."""
        lifted = self.table.lifted
        return list(map(lifted.parts, leaves, references)) if lifted.detached else list(leaves)

    def read(
        self, moving: Sequence[Any], leaves: Arrays, references: Arrays, probes: dict[Key, Probe]
    ) -> tuple[list[Any], Watch]:
        """The outputs, and the rows that were met."""
        lifted, watch = self.table.lifted, Watch(self.staged.jaxpr, probes)
        if lifted.detached:
            operands = list(map(lifted.lift, leaves, references, moving))
        else:
            operands = list(map(lifted.lift, moving, references))
        found = map(settled, interpret(watch.table(self.table), self.staged.jaxpr, operands))
        return [o.output if isinstance(o, Lifted) else o for o in found], watch


def _reported(name: str, entries: dict[Key, Entry], measured: Any) -> Audit:
    (value,), (reference,) = measured["value"], measured["reference"]
    value, reference = float(value), float(reference)
    total = float(sum(measured["contributions"]))
    rows = map(_row, entries.values(), measured["received"])
    return Audit(
        value=value,
        reference=reference,
        contributions=total,
        gap=value - reference - total,
        rules=name,
        versions={"jax": jax.__version__, "jaxplain": importlib.metadata.version("jaxplain")},
        rows=tuple(sorted(rows, key=hurts(value - reference))),
    )


def _row(entry: Entry, received: Probe) -> Row:
    sent, sent_size = map(float, received.sent)
    arrived, arrived_size, times, *choice = map(float, received.arrived)
    return Row(
        line=entry.line,
        path=entry.path,
        primitive=entry.primitive,
        rule=entry.rule,
        equations=entry.equations,
        choice=entry.says.format(*(number / max(times, 1.0) for number in choice)),
        sent=sent,
        arrived=arrived,
        gap=sent - arrived,
        conditioning=_ratio(sent_size, arrived_size),
        times=round(times),
    )


def _ratio(size: float, unit: float) -> float:
    """0/0 is 1: nothing cancelled."""
    if unit == 0:
        return 1.0 if size == 0 else float("inf")
    return size / unit
