"""Docstrings: every public name has an example (which pytest's `--doctest-modules` runs)."""

import inspect
from importlib import metadata

import jax.numpy as jnp
import pytest

import jaxplain as jxp

PUBLIC = [
    name
    for name, member in vars(jxp).items()
    if callable(member)
    and not name.startswith("_")
    and not (inspect.isclass(member) and issubclass(member, Exception))
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(jxp, name))


def model(x, scale):
    return (x * scale).sum()


SPOKEN = {
    "deeplift": lambda: jxp.deeplift(model, 0.0),
    "gradient": lambda: jxp.gradient(f=model),
    "lrp": lambda: jxp.lrp(model),
    "integrated_gradients": lambda: jxp.integrated_gradients(model, 0.0),
    "shapley_values": lambda: jxp.shapley_values(model, 0.0, samples=8),
    "in_silico_mutagenesis": lambda: jxp.in_silico_mutagenesis(model),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_what_comes_back_says_what_it_is(name):
    explain = SPOKEN[name]()
    assert explain.__name__ == f"{name}_of_model" in repr(explain)
    first = inspect.getdoc(getattr(jxp, name)).partition("\n")[0]
    assert explain.__doc__.startswith(f"{name} of model: {first}") and "→" in explain.__doc__
    assert list(inspect.signature(explain).parameters)[:2] == ["x", "scale"]
    assert ("key" in inspect.signature(explain).parameters) == (name == "shapley_values")


def test_what_python_cannot_look_into_is_explained_all_the_same():
    explain = jxp.deeplift(jnp.sum, 0.0)
    assert explain(jnp.ones(2)).tolist() == [1, 1] and explain.__name__ == "deeplift_of_sum"
    assert jxp.saliency(lambda x: x.sum()).__name__ == "saliency_of_lambda"


def test_the_package_lists_what_a_user_may_type():
    names = set(dir(jxp))
    assert {"deeplift", "plots", "flax", "keras", "__version__"} <= names
    assert not names & {"surrogate", "methods", "games", "named", "_keys"}
    assert set(jxp.__all__) <= names and all(hasattr(jxp, name) for name in jxp.__all__)
    assert jxp.__version__ == metadata.version("jaxplain")
