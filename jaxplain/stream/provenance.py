"""What results depend on, in words and digests that are compared before a run goes on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from jaxplain._types import Tree
from jaxplain.stream.hosts import whole
from jaxplain.stream.source import is_sound
from jaxplain.stream.tracing import Traced

Json = Any

# What a store is laid out for; nothing makes results of two such fit together.
LAYOUT = ("length", "block", "example", "results")
# What else may be accepted, in the order in which differences are told.
OTHERS = (
    "function", "reference", "rules", "closed-over arrays", "parameters", "key", "prediction",
    "gap", "tolerance", "source", "jax", "jaxplain", "platform", "precision",
)  # fmt: skip
# A program's text depends on these: where one of them differs and is accepted, so is the text.
_TELL_ON_TEXT = {"jax", "platform", "precision"}
_SETTINGS = (
    "jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl",
    "jax_threefry_partitionable", "jax_numpy_dtype_promotion",
)  # fmt: skip


class Refused(ValueError):
    """A run's results would not go together with those that are there."""


def of_run(
    functions: Mapping[str, Traced],
    shared: tuple[Tree, ...],
    key: Any,
    samples: dict[int, Any],
    kinds: Tree,
    results: Mapping[str, str],
    **layout: Any,
) -> Json:
    """The provenance of a run, ready for JSON.

    Args:
      functions: under "function" the explanation, and "prediction" and "gap" where there are any.
      shared: the parameters.
      key: of the run, or None.
      samples: examples by number.
      kinds: the common form of examples.
      results: what is stored, by name: shape and dtype.
      layout: length, block, tolerance.
    """
    programs = {name: _program(traced) for name, traced in functions.items()}
    explain = programs.pop("function")
    return {
        **layout,
        "example": [str(_short(kind)) for kind in jax.tree.leaves(kinds)],
        "results": dict(results),
        "function": explain["text"],
        "reference": explain["references"],
        "rules": explain["rules"],
        "closed-over arrays": [a for part in (explain, *programs.values()) for a in part["arrays"]],
        "parameters": {
            jax.tree_util.keystr(path): digest(leaf)
            for path, leaf in jax.tree.leaves_with_path(shared)
        },
        "key": None if key is None else digest(key),
        "prediction": programs["prediction"]["text"] if "prediction" in programs else None,
        "gap": programs["gap"]["text"] if "gap" in programs else None,
        "source": {str(i): digest(s) if is_sound(s, kinds) else None for i, s in samples.items()},
        **environment(),
    }


def without_samples(there: Json, numbers: Iterable[int]) -> Json:
    """A provenance that knows nothing of these examples: they may be others the next time."""
    unknown = set(map(str, numbers))
    known = {i: None if i in unknown else sample for i, sample in there["source"].items()}
    return {**there, "source": known}


def environment() -> Json:
    """Versions, device and settings of this process."""
    device = jax.local_devices()[0]
    versions = {name: metadata.version(name) for name in ("jaxlib", "numpy", "tensorstore")}
    return {
        "jax": jax.__version__,
        "jaxplain": metadata.version("jaxplain"),
        "platform": f"{device.platform}: {device.device_kind}",
        "precision": {name: str(getattr(jax.config, name, None)) for name in _SETTINGS},
        "recorded": {"python": platform.python_version(), **versions},  # and not compared
    }


def check(there: Json, here: Json, accept: Iterable[str], path: str) -> list[Json]:
    """What differs and is accepted, for the record.

    Raises:
      Refused: something else differs; the message names it.
    """
    accept = [accept] if isinstance(accept, str) else list(accept)
    unknown = [name for name in accept if name not in OTHERS]
    if unknown:
        kept = [name for name in unknown if name in LAYOUT]
        raise ValueError(
            f"accept= can't take {unknown}: "
            + (f"the files are laid out for one {kept[0]}" if kept else f"there is {OTHERS}")
        )
    found = differences(there, here)
    granted = set(accept)
    if granted & set(found) & _TELL_ON_TEXT:
        granted |= {"function", "prediction", "gap"}
    refused = [name for name in found if name not in granted]
    if refused:
        lines = [f"  {name}: {found[name]}" for name in refused]
        acceptable = [name for name in refused if name in OTHERS]
        raise Refused(
            f"{path} holds another run, from which this one differs in the {_listed(refused)}:\n"
            + "\n".join(lines)
            + "\nGive another path, or what was given then"
            + (f", or accept={tuple(acceptable)!r} to go on." if refused == acceptable else ".")
        )
    return [{"name": name, "was": there.get(name), "is": here.get(name)} for name in found]


def differences(there: Json, here: Json) -> dict[str, str]:
    """In what two provenances differ, by name, each in a few words."""
    found = {
        name: f"{there.get(name)} there, {here.get(name)} here"
        for name in (*LAYOUT, *OTHERS)
        if there.get(name) != here.get(name)
    }
    for name, of in {
        "function": "the program of one example is another",
        "prediction": "the program of predict is another, or there is none",
        "gap": "the program of gap is another, or there is none",
        "key": "another key, or none",
    }.items():
        if name in found:
            found[name] = of
    _parameters(found, there, here)
    _source(found, there, here)
    _inside(found, there, here)
    return {name: found[name] for name in (*LAYOUT, *OTHERS) if name in found}


def _parameters(found: dict[str, str], there: Json, here: Json) -> None:
    if "parameters" in found:
        names = _unequal(there["parameters"], here["parameters"])
        some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        found["parameters"] = f"{len(names)} of {len(here['parameters'])} arrays: {some}"


def _source(found: dict[str, str], there: Json, here: Json) -> None:
    """Of samples that could be explained both times: one that was mended since is no other."""
    if "source" not in found:
        return
    was, now = there["source"], here["source"]
    changed = [i for i in was if i in now and was[i] and now[i] and was[i] != now[i]]
    if changed:
        found["source"] = f"example {', '.join(changed[:5])} of {len(now)} that are compared"
    else:
        del found["source"]


def _inside(found: dict[str, str], there: Json, here: Json) -> None:
    """What makes a program another: its reference, its rules, its arrays, or its own text.

    References and rules are known as far as JAX traced the method this time; where it had traced
    it before, nothing is seen of them, and the program tells.
    """
    program = {"function", "closed-over arrays"} & set(found)
    for name in ("reference", "rules"):
        seen = bool(there[name]) and bool(here[name])
        if name in found and not (seen and program):
            del found[name]
        elif name in found:
            found[name] = f"another {name}"
    explained = {"reference", "rules"} & set(found)
    if explained:
        found.pop("function", None)
    if "closed-over arrays" in found:
        was, now = _values(there, found), _values(here, found)
        changed = len(set(was) ^ set(now))
        if not changed and (explained or was == now):
            del found["closed-over arrays"]
        else:
            found["closed-over arrays"] = (
                f"{len(now)} arrays that the function holds, of {len(was)}"
            )


def _values(provenance: Json, found: dict[str, str]) -> list[str]:
    """The closed-over arrays, but for references where those are told of."""
    told = set(provenance["reference"]) if "reference" in found else set()
    return [array for array in provenance["closed-over arrays"] if array not in told]


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [name for name in {**a, **b} if a.get(name) != b.get(name)]


def _listed(names: list[str]) -> str:
    return " and the ".join(filter(None, [", the ".join(names[:-1]), names[-1]]))


# --- digests ------------------------------------------------------------------------------------


def digest(tree: Tree) -> str:
    """Sha256 of a tree's arrays: structure, shapes, dtypes and bytes."""
    sha = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            sha.update(str(leaf.dtype).encode())
            leaf = jax.random.key_data(leaf)
        sha.update(_canonical(leaf))
    return sha.hexdigest()


def _canonical(leaf: Any) -> bytes:
    array = np.asarray(whole(leaf))
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    return f"{array.shape}{array.dtype}".encode() + array.tobytes()


def _short(kind: Any) -> str:
    return f"{kind.dtype}{list(kind.shape)}"


def _program(traced: Traced) -> Json:
    """The program of one example: its StableHLO without arrays' values, those, and what made it."""
    text, numbers = traced.text()
    return {
        "text": hashlib.sha256(text.encode()).hexdigest(),
        "arrays": [*map(digest, traced.constants), *numbers],
        "references": list(dict.fromkeys(map(digest, jax.tree.leaves(traced.references)))),
        "rules": list(dict.fromkeys(map(of_table, traced.tables))),
    }


def of_table(table: Any) -> str:
    """A digest of a rule table: which primitive has which rule, with what settings."""
    rows = sorted(f"{_name(key)}: {_spelled(rule)}" for key, rule in table.rules.items())
    others = [_spelled(part) for part in (table.lifted, table.fallback, table.rescue, table.keeps)]
    return hashlib.sha256("\n".join([*rows, *others]).encode()).hexdigest()


def _spelled(value: Any, depth: int = 4) -> str:
    """A rule as its name and whatever it holds; never an address in memory."""
    if isinstance(value, functools.partial):
        held = [value.func, *value.args, *sorted(value.keywords.items())]
        return f"partial({', '.join(_spelled(part, depth) for part in held)})"
    if isinstance(value, bool | int | float | complex | str | type(None)):
        return repr(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return digest(value)
    if depth == 0:
        return type(value).__name__
    if isinstance(value, tuple | list):
        return f"({', '.join(_spelled(part, depth - 1) for part in value)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(_spelled(item, depth - 1) for item in value.items()))}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return f"{type(value).__name__}{_spelled(fields, depth - 1)}"
    if hasattr(value, "__qualname__"):
        cells = getattr(value, "__closure__", None) or ()
        held = [_cell(cell, depth - 1) for cell in cells]
        return f"{value.__module__}.{value.__qualname__}({', '.join(held)})"
    return f"{type(value).__name__}{_spelled(getattr(value, '__dict__', {}), depth - 1)}"


def _name(key: Any) -> str:
    """Of a primitive, a pattern or a call."""
    return str(getattr(key, "name", None) or type(key).__name__)


def _cell(cell: Any, depth: int) -> str:
    try:
        return _spelled(cell.cell_contents, depth)
    except ValueError:  # empty: a name that was never bound
        return "unbound"
