"""Captum's methods: {name: (family, task → run)}."""

from collections.abc import Callable

from captum import attr

from benchmarks.peers.families import CHUNK, COALITIONS, STEPS
from benchmarks.peers.task import Task


def baselined(method: type, **options) -> Callable[[Task], Callable]:
    """A method of module, inputs and one baseline."""

    def make(task: Task) -> Callable:
        explain, x, ref = method(task.module), task.xs, task.ref
        return lambda: explain.attribute(x, ref, target=0, **options)

    return make


def grouped(method: type, **options) -> Callable[[Task], Callable]:
    def make(task: Task) -> Callable:
        explain, x, ref, mask = method(task.module), task.xs, task.ref, task.groups
        return lambda: explain.attribute(
            x, ref, target=0, feature_mask=mask, perturbations_per_eval=CHUNK, **options
        )

    return make


def referenced(method: type, **options) -> Callable[[Task], Callable]:
    def make(task: Task) -> Callable:
        explain, x, refs = method(task.module), task.xs, task.tensor(task.refs)
        return lambda: explain.attribute(x, refs, target=0, **options)

    return make


def plain(method: type) -> Callable[[Task], Callable]:
    def make(task: Task) -> Callable:
        explain, x = method(task.module), task.xs
        return lambda: explain.attribute(x, target=0)

    return make


def conductance(task: Task) -> Callable:
    explain, x, ref = attr.LayerConductance(task.module, task.layer), task.xs, task.ref
    return lambda: explain.attribute(x, ref, target=0, n_steps=STEPS)


def occlusion(task: Task) -> Callable:
    explain, x, ref, m = attr.Occlusion(task.module), task.xs, task.ref, task.model
    first = m.kind in ("image", "bases")
    window = (*x.shape[1:2], *m.window) if first else (*m.window, *x.shape[2:])
    return lambda: explain.attribute(
        x, window, window, baselines=ref, target=0, perturbations_per_eval=CHUNK
    )


METHODS = {
    "DeepLift": ("DeepLIFT", baselined(attr.DeepLift)),
    "DeepLiftShap": ("DeepLIFT-SHAP", referenced(attr.DeepLiftShap)),
    "IntegratedGradients": (
        "integrated gradients", baselined(attr.IntegratedGradients, n_steps=STEPS)
    ),
    "GradientShap": ("expected gradients", referenced(attr.GradientShap, n_samples=STEPS)),
    "LayerConductance": ("layer conductance", conductance),
    "FeatureAblation": ("ablation", grouped(attr.FeatureAblation)),
    "Occlusion": ("occlusion", occlusion),
    "ShapleyValueSampling": (
        "permutation Shapley", grouped(attr.ShapleyValueSampling, n_samples=COALITIONS // 16)
    ),
    "KernelShap": ("KernelSHAP", grouped(attr.KernelShap, n_samples=COALITIONS)),
    "GuidedBackprop": ("guided backprop", plain(attr.GuidedBackprop)),
    "Deconvolution": ("deconvolution", plain(attr.Deconvolution)),
}  # fmt: skip
