"""What the README says is so: its code runs, its commands exist, its errors are the real ones."""

import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain as jxp

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
X = jnp.array([1.0, 2.0, 3.0])


def section(title):
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("class ")[-1][:12])
def test_code_runs_as_written(block):
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_there_is_code_for_linen_and_for_nnx():
    assert sum("flax.linen" in block for block in BLOCKS) == 1
    assert sum("nnx.Module" in block for block in BLOCKS) == 1


def test_two_commands_of_one_line_with_extras_that_exist():
    run, test = COMMANDS
    assert run.endswith("-m jaxplain") and test.endswith("-m pytest")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for command in COMMANDS:
        assert command.startswith("python3 -m venv .venv && ") and "\n" not in command
        assert re.search(r'pip install (?:-e )?"\.\[(\w+)\]"', command)[1] in extras


def test_every_name_is_there_and_every_function_is_explained():
    named = set(re.findall(r"jxp\.(\w+)", README))
    assert not [name for name in named if not hasattr(jxp, name)]
    functions = {n for n, v in vars(jxp).items() if callable(v) and v.__module__ != jxp.__name__}
    engine = {"RuleTable", "UnsupportedPrimitive", "override"}
    assert functions - engine <= set(
        re.findall(r"^\| `jxp\.(\w+)", section("What explains what"), re.M)
    )


def test_links_and_pictures_lead_somewhere():
    headings = re.findall(r"^##+ (.*)$", README, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\((?!https://)(.*?)\)", README):
        assert (ROOT / target).is_file() or target[1:] in anchors, target


def doubling(x):
    return jax.lax.while_loop(lambda c: c.sum() < 100, lambda c: 2 * c + 1, x).sum()


def outside_jax(x):
    shape = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(lambda x: np.asarray(x).sum(), shape, x)


DROPOUT = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


ERRORS = {
    "f must return a scalar": (lambda x: 2 * x, 0.0, X),
    "f must return one scalar": (lambda x: (x.sum(), x), 0.0, X),
    "only floating inputs have attributions": (jnp.sum, 0.0, jnp.arange(3)),
    "changes the state of a Flax nnx model": (lambda x: DROPOUT(x).sum(), 0.0, X),
    "the reference does not broadcast to the input": (jnp.sum, jnp.zeros(2), X),
    "no rule for the primitive": (outside_jax, 0.0, X),
    "carries a value that depends on x": (doubling, 0.0, X),
    "branches on a value that depends on x": (
        lambda x: jax.lax.cond(x[0] > 0, outside_jax, jnp.sum, x),
        0.0,
        X,
    ),
    "is not differentiable, and depends on x": (
        lambda x: jax.vmap(lambda v: jax.lax.pmax(v, "i"), axis_name="i")(x).sum(),
        0.0,
        X,
    ),
    "broke its contract": (
        lambda x: jnp.sum(jnp.tanh(x)),
        0.0,
        X,
        jxp.rules.rescale().register(jax.lax.tanh_p, lambda equation, x: [x, x]),
    ),
}


def test_the_errors_listed_are_the_errors_tested():
    assert re.findall(r"^\| `(.*?)` \|", section("When it complains"), re.M) == [*ERRORS]


@pytest.mark.parametrize("words", ERRORS)
def test_an_error_says_what_the_readme_says(words):
    f, ref, x, *rules = ERRORS[words]
    with pytest.raises((TypeError, ValueError, jxp.UnsupportedPrimitive), match=words):
        jxp.deeplift(f, ref, rules=[*rules, "rescale"][0])(x)


@pytest.mark.parametrize("f", [
    lambda x: jax.lax.cond(x[0] > 0, jnp.sum, jnp.prod, x),
    lambda x: x[jnp.argmax(x)] * x[0],
    lambda x: (jax.nn.one_hot(x.argmax(), 3) * x).sum(),
    lambda x: jnp.argsort(x).astype(float) @ x,
    lambda x: jnp.arange(5.0)[x[0].astype(int)] * x[1],
])  # fmt: skip
def test_branches_and_indices_that_depend_on_x_are_explained(f):
    contributions, gap = jxp.deeplift(f, -1.0, return_gap=True)(X)
    assert abs(gap) < 1e-5
    np.testing.assert_allclose(contributions.sum(), f(X) - f(-jnp.ones(3)), rtol=1e-5)


def test_advice_on_a_loop_holds():
    def f(x):
        return jax.lax.fori_loop(0, 3, lambda _, c: c * c, x).sum()

    np.testing.assert_allclose(jxp.deeplift(f, 0.0)(X), X**8, rtol=1e-5)


def test_a_reference_outside_the_domain_is_not_finite():
    assert not jnp.isfinite(jxp.deeplift(lambda x: jnp.log(x).sum(), 0.0)(X)).any()


def test_float64_is_as_exact_as_it_allows(x64):
    x = jnp.linspace(-1.0, 2.0, 7)
    _, gap = jxp.deeplift(lambda x: jnp.tanh(x @ jnp.sin(x)) * x.sum(), 0.5, return_gap=True)(x)
    assert gap.dtype == jnp.float64 and abs(gap) < 1e-13
