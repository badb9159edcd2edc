"""The methods under the clock, by the name their row carries: every public one of jaxplain."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

import jaxplain as jxp
from benchmarks.models import Model

Explain = Callable[[Any, Any], Any]
BASELINE = "gradient"
SUBJECT = "deeplift"
REFERENCES, STEPS, COALITIONS = 10, 32, 64
CHUNK = 2  # evaluations in memory at once, times the batch


@dataclass(frozen=True)
class Method:
    """`make(model)` returns explain(x, params), of one example unless `whole_batch`.

    Args:
      make: from a model, of which it uses `f`, `ref` and what depends on shapes alone.
      settings: what the method was asked for, as its row shows it.
      shares: what the explanation adds up to: the rise of f above "ref", or above its mean over
        "refs"; or nothing.
      players: whether each element carries its group's share, so that groups are added up.
      kinds: the kinds of input the method is for; all by default.
      whole_batch: whether x is all examples, and f their mean output.
    """

    make: Callable[[Model], Explain]
    settings: str = ""
    shares: str | None = None
    players: bool = False
    kinds: tuple[str, ...] = ("vector", "image", "bases", "sequence")
    whole_batch: bool = False


def keyed(explain: Callable) -> Explain:
    """A sampling method with its randomness fixed."""
    return lambda x, params: explain(x, params, key=jax.random.key(0))


def at_late(method: Callable, **options: Any) -> Callable[[Model], Explain]:
    return lambda m: method(m.f, m.ref, at="late", **options)


def cam(method: Callable) -> Method:
    return Method(lambda m: method(m.f, at="late"), "last conv", kinds=("image", "bases"))


def one_neuron(m: Model) -> Explain:
    """Conductance of every input through the last layer's first neuron."""

    def explain(x, params):
        first = (0,) * jxp.names(m.f)(x, params)["late"].ndim
        method = jxp.neuron_conductance
        return method(m.f, m.ref, at="late", index=first, steps=STEPS, chunk=CHUNK)(x, params)

    return explain


def grouped(method: Callable, **options: Any) -> Callable[[Model], Explain]:
    """A method that hides groups of x."""
    return lambda m: method(m.f, m.ref, groups=m.groups, chunk=CHUNK, **options)


def drawn(method: Callable, **options: Any) -> Callable[[Model], Explain]:
    """The same, sampling."""
    return lambda m: keyed(grouped(method, **options)(m))


def game(method: Callable, samples: int = COALITIONS, shares: str | None = "ref") -> Method:
    settings = f"16 groups, {samples} coalitions"
    return Method(drawn(method, samples=samples), settings, shares, players=True)


def owen_values(m: Model) -> Explain:
    unions, options = m.groups // 4, {"players": m.groups, "samples": COALITIONS, "chunk": CHUNK}
    return keyed(jxp.owen_values(m.f, m.ref, groups=unions, **options))


def expected_gradients(m: Model) -> Explain:
    return keyed(jxp.expected_gradients(m.f, m.refs(REFERENCES), samples=STEPS, chunk=CHUNK))


def blur(m: Model) -> Explain:
    axes = range(len(m.places))
    return jxp.blur_integrated_gradients(m.f, stdev=2.0, axes=tuple(axes), steps=STEPS, chunk=CHUNK)


def rise(m: Model) -> Explain:
    cells = tuple(n // w for n, w in zip(m.places, m.window, strict=True))
    return keyed(jxp.rise(m.f, m.ref, grid=cells, samples=COALITIONS, chunk=CHUNK))


def deeplift(rules: str, **options: Any) -> Method:
    return Method(lambda m: jxp.deeplift(m.f, m.ref, rules=rules, **options), rules, "ref")


METHODS: dict[str, Method] = {
    BASELINE: Method(lambda m: jax.grad(m.f), "jax.grad"),
    SUBJECT: deeplift("rescale"),
    "reveal_cancel": deeplift("reveal_cancel"),
    "genomics": deeplift("genomics"),
    "central_limit": deeplift("central_limit"),
    "moment_shapley": Method(lambda m: jxp.moment_shapley(m.f, m.ref), "2 nodes", "ref"),
    "deeplift_shap": Method(
        lambda m: jxp.deeplift_shap(m.f, m.refs(REFERENCES)), f"{REFERENCES} references", "refs"
    ),
    "saliency": Method(lambda m: jxp.saliency(m.f)),
    "input_x_gradient": Method(lambda m: jxp.input_x_gradient(m.f, m.ref), shares="ref"),
    "guided_backprop": Method(lambda m: jxp.guided_backprop(m.f)),
    "deconvnet": Method(lambda m: jxp.deconvnet(m.f)),
    "lrp": Method(lambda m: jxp.lrp(m.f), "epsilon"),
    "lrp_composite": Method(lambda m: jxp.lrp(m.f, rules="epsilon_plus_flat"), "epsilon_plus_flat"),
    "attn_lrp": Method(lambda m: jxp.attn_lrp(m.f)),
    "cp_lrp": Method(lambda m: jxp.cp_lrp(m.f)),
    "smooth": Method(
        lambda m: keyed(jxp.smooth(jxp.gradient(m.f), stdev=0.1, samples=16, chunk=CHUNK)),
        "of the gradient, 16 samples",
    ),
    "integrated_gradients": Method(
        lambda m: jxp.integrated_gradients(m.f, m.ref, steps=STEPS, chunk=CHUNK),
        f"{STEPS} steps",
        "ref",
    ),
    "expected_gradients": Method(
        expected_gradients, f"{REFERENCES} references, {STEPS} samples", "refs"
    ),
    "guided_integrated_gradients": Method(
        lambda m: jxp.guided_integrated_gradients(m.f, m.ref, steps=STEPS), f"{STEPS} steps", "ref"
    ),
    "blur_integrated_gradients": Method(blur, f"{STEPS} steps, σ = 2"),
    "idgi": Method(
        lambda m: jxp.idgi(m.f, m.ref, steps=STEPS, chunk=CHUNK), f"{STEPS} steps", "ref"
    ),
    "deeplift_at": Method(at_late(jxp.deeplift), "last layer", "ref"),
    "neuron_integrated_gradients": Method(
        at_late(jxp.neuron_integrated_gradients, steps=STEPS, chunk=CHUNK),
        f"last layer, {STEPS} steps",
        "ref",
    ),
    "conductance": Method(
        at_late(jxp.conductance, steps=STEPS, chunk=CHUNK), f"last layer, {STEPS} steps", "ref"
    ),
    "neuron_conductance": Method(one_neuron, f"one neuron, {STEPS} steps"),
    "internal_influence": Method(
        at_late(jxp.internal_influence, steps=STEPS, chunk=CHUNK), f"last layer, {STEPS} steps"
    ),
    "attribution_patching": Method(at_late(jxp.attribution_patching), "last layer"),
    "edge_attributions": Method(
        lambda m: jxp.edge_attributions(m.f, m.ref, at=["early", "late"]), "first and last layer"
    ),
    "grad_cam": cam(jxp.grad_cam),
    "grad_cam_plus_plus": cam(jxp.grad_cam_plus_plus),
    "hires_cam": cam(jxp.hires_cam),
    "layer_cam": cam(jxp.layer_cam),
    "guided_grad_cam": cam(jxp.guided_grad_cam),
    "ablation": Method(grouped(jxp.ablation), "16 groups"),
    "occlusion": Method(
        lambda m: jxp.occlusion(m.f, m.ref, window=m.window, strides=m.window, chunk=CHUNK),
        "16 windows",
    ),
    "in_silico_mutagenesis": Method(
        lambda m: jxp.in_silico_mutagenesis(m.f, chunk=CHUNK), "all substitutions", kinds=("bases",)
    ),
    "permutation_importance": Method(
        lambda m: keyed(jxp.permutation_importance(m.f, groups=m.groups, chunk=CHUNK)),
        "16 groups of all examples",
        whole_batch=True,
    ),
    "rise": Method(rise, f"{COALITIONS} masks"),
    "lime": Method(drawn(jxp.lime, samples=COALITIONS), f"16 groups, {COALITIONS} coalitions"),
    "sobol": Method(drawn(jxp.sobol, samples=4), "16 groups, 4 × 18 masks"),
    "shapley_values": game(jxp.shapley_values),
    "permutation_shapley": game(jxp.permutation_shapley),
    "kernel_shap": game(jxp.kernel_shap),
    "owen_values": Method(owen_values, f"4 unions of 4, {COALITIONS} coalitions", "ref", True),
    "banzhaf_values": game(jxp.banzhaf_values, shares=None),
    "shapley_interactions": game(jxp.shapley_interactions, 2 * COALITIONS, shares=None),
}
