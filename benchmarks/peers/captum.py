"""Captum's methods: {name: member}."""

from collections.abc import Callable

from captum import attr

from benchmarks.peers.families import COALITIONS, MASK_CHUNKS, PATH_CHUNKS, STEPS, Member
from benchmarks.peers.task import Task


def deep_lift(task: Task, chunk: None) -> Callable:
    explain, x, ref = attr.DeepLift(task.module), task.xs, task.ref
    return lambda: explain.attribute(x, ref, target=0)


def deep_lift_shap(task: Task, chunk: None) -> Callable:
    explain, x, refs = attr.DeepLiftShap(task.module), task.xs, task.tensor(task.refs)
    return lambda: explain.attribute(x, refs, target=0)


def stepped(explain: attr.Attribution, task: Task, chunk: int | None) -> Callable:
    x, ref = task.xs, task.ref
    options = {"n_steps": STEPS, "internal_batch_size": chunk and chunk * len(x)}
    return lambda: explain.attribute(x, ref, target=0, **options)


def integrated_gradients(task: Task, chunk: int | None) -> Callable:
    return stepped(attr.IntegratedGradients(task.module), task, chunk)


def conductance(task: Task, chunk: int | None) -> Callable:
    return stepped(attr.LayerConductance(task.module, task.layer), task, chunk)


def gradient_shap(task: Task, chunk: None) -> Callable:
    explain, x, refs = attr.GradientShap(task.module), task.xs, task.tensor(task.refs)
    return lambda: explain.attribute(x, refs, target=0, n_samples=STEPS)


def grouped(family: str, method: type, **options) -> Member:
    def make(task: Task, chunk: int) -> Callable:
        explain, x, ref, mask = method(task.module), task.xs, task.ref, task.groups
        return lambda: explain.attribute(
            x, ref, target=0, feature_mask=mask, perturbations_per_eval=chunk, **options
        )

    return Member(family, make, MASK_CHUNKS)


def occlusion(task: Task, chunk: int) -> Callable:
    explain, x, ref, m = attr.Occlusion(task.module), task.xs, task.ref, task.model
    first = m.kind in ("image", "bases")
    window = (*x.shape[1:2], *m.window) if first else (*m.window, *x.shape[2:])
    return lambda: explain.attribute(
        x, window, window, baselines=ref, target=0, perturbations_per_eval=chunk
    )


def plain(family: str, method: type) -> Member:
    def make(task: Task, chunk: None) -> Callable:
        explain, x = method(task.module), task.xs
        return lambda: explain.attribute(x, target=0)

    return Member(family, make)


ORDERS = COALITIONS // 16
METHODS = {
    "DeepLift": Member("DeepLIFT", deep_lift),
    "DeepLiftShap": Member("DeepLIFT-SHAP", deep_lift_shap),
    "IntegratedGradients": Member("integrated gradients", integrated_gradients, PATH_CHUNKS),
    "GradientShap": Member("expected gradients", gradient_shap),
    "LayerConductance": Member("layer conductance", conductance, PATH_CHUNKS),
    "FeatureAblation": grouped("ablation", attr.FeatureAblation),
    "Occlusion": Member("occlusion", occlusion, MASK_CHUNKS),
    "ShapleyValueSampling": grouped(
        "permutation Shapley", attr.ShapleyValueSampling, n_samples=ORDERS
    ),
    "KernelShap": grouped("KernelSHAP", attr.KernelShap, n_samples=COALITIONS),
    "GuidedBackprop": plain("guided backprop", attr.GuidedBackprop),
    "Deconvolution": plain("deconvolution", attr.Deconvolution),
}
