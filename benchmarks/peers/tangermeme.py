"""tangermeme's methods: {name: member}."""

from collections.abc import Callable

from tangermeme.deep_lift_shap import deep_lift_shap
from tangermeme.saturation_mutagenesis import saturation_mutagenesis

from benchmarks.peers.families import MASK_CHUNKS, Member
from benchmarks.peers.task import Task


def deep_lift(task: Task, chunk: None) -> Callable:
    x, refs = task.xs, task.tensor(task.refs)
    refs = refs.expand(len(x), *refs.shape)
    options = {"target": 0, "device": "cpu", "warning_threshold": 1e-3}
    return lambda: deep_lift_shap(task.module, x, references=refs, **options)


def mutagenesis(task: Task, chunk: int) -> Callable:
    x = task.xs
    return lambda: saturation_mutagenesis(
        task.module, x, target=0, device="cpu", batch_size=chunk * len(x)
    )


METHODS = {
    "deep_lift_shap": Member("DeepLIFT-SHAP", deep_lift),
    "saturation_mutagenesis": Member("in silico mutagenesis", mutagenesis, MASK_CHUNKS),
}
