"""Explainers go to other processes: cloudpickle gives back one that says the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import jaxplain as jxp

cloudpickle = pytest.importorskip("cloudpickle")

X = np.float32([0.3, -0.8, 1.2])


def again(explain):
    return cloudpickle.loads(cloudpickle.dumps(explain))


def f(x):
    return jax.nn.softmax(jnp.tanh(x) * x)[1] + jax.nn.logsumexp(x)


def named(x):
    return f(jxp.tag(jnp.sin(x), "h"))


TABLES = ["rescale", "reveal_cancel", "genomics", "central_limit"]
EXPLAINERS = {
    **{name: jxp.deeplift(f, 0.1, rules=name) for name in TABLES},
    "norm_theta": jxp.deeplift(f, 0.1, rules=jxp.rules.rescale(norm_theta=0.5)),
    "frozen": jxp.deeplift(f, 0.1, rules=jxp.rules.freeze_choices(jxp.rules.rescale())),
    "within": jxp.deeplift(f, 0.1, rules=jxp.rules.reveal_cancel(within="head")),
    "deeplift_shap": jxp.deeplift_shap(f, jnp.zeros((2, 3))),
    "gradient": jxp.gradient(f),
    "saliency": jxp.saliency(f),
    "input_x_gradient": jxp.input_x_gradient(f),
    "guided_backprop": jxp.guided_backprop(f),
    "deconvnet": jxp.deconvnet(f),
    "lrp": jxp.lrp(f, rules=jxp.rules.epsilon_gamma_box(-1.0, 1.0)),
    "attn_lrp": jxp.attn_lrp(f),
    "integrated_gradients": jxp.integrated_gradients(f, 0.1, steps=4),
    "idgi": jxp.idgi(f, 0.1, steps=4),
    "guided_integrated_gradients": jxp.guided_integrated_gradients(f, 0.1, steps=4),
    "at": jxp.deeplift(named, 0.1, at="h"),
    "conductance": jxp.conductance(named, 0.1, at="h", steps=4),
    "attribution_patching": jxp.attribution_patching(named, 0.1, at="h"),
    "shapley_values": jxp.shapley_values(f, jnp.zeros((1, 3))),
    "ablation": jxp.ablation(f, 0.1),
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_comes_back_the_same(name):
    explain = EXPLAINERS[name]
    for a, b in zip(*(jax.tree.leaves(e(X)) for e in (explain, again(explain))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("rules", [*TABLES, "guided_backprop", "deconvnet", "epsilon", "attn_lrp"])
def test_a_table_comes_back_with_its_rules(rules):
    table = jxp.rules.by_name(rules, any_kind=True)
    back = again(table)
    assert set(back.rules) == set(table.rules) and set(back.takes) == set(table.takes)
    assert back.patterns == table.patterns and back.lifted.__name__ == table.lifted.__name__


@pytest.mark.parametrize("rules", TABLES)
def test_primitives_that_jax_does_not_list_come_back(rules):
    """A `psum` inside shard_map is known by its name only."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    total = jax.shard_map(
        lambda x: jax.lax.psum(jnp.tanh(x), "i"), mesh=mesh, in_specs=P(), out_specs=P()
    )
    table = again(jxp.rules.by_name(rules))
    c = jxp.deeplift(lambda x: total(x).sum(), 0.1, rules=table)(X)
    np.testing.assert_allclose(c, jnp.tanh(X) - jnp.tanh(0.1), rtol=1e-5)
