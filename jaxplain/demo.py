"""Train a small CNN on handwritten digits, explain it three ways and compare them."""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxplain as jxp
from jaxplain import plots

Array = jax.Array
Classifier = Callable[[Array], Array]  # image (8, 8, 1) -> logits (10,)
Explain = Callable[[Array, Array], Array]  # images (n, 8, 8, 1), classes (n,) -> contributions

BLANK = 0.0  # the reference: an image without ink
EXPLAINED = 128  # held-out digits behind each number of the table
IMAGE_SHAPE = (8, 8, 1)
MAX_ROWS = 20  # of the figure
TIMED_RUNS = 15


class Digits(NamedTuple):
    """Images (n, 8, 8, 1) in [0, 1] and labels (n,)."""

    images: Array
    labels: Array


class Row(NamedTuple):
    """One method's line of the table."""

    method: str
    completeness_gap: float
    cost: float
    deletion_score: float


class CNN(nn.Module):
    """Two convolutions with a max-pool between them, then two dense layers."""

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Images (n, 8, 8, 1) to logits (n, 10)."""
        h = nn.relu(nn.Conv(16, (3, 3))(images))
        h = nn.max_pool(h, (2, 2), strides=(2, 2))
        h = nn.relu(nn.Conv(32, (3, 3))(h))
        h = nn.relu(nn.Dense(64)(h.reshape(h.shape[0], -1)))
        return nn.Dense(10)(h)


def load_digits(seed: int) -> tuple[Digits, Digits]:
    """The digits that scikit-learn brings along: a training set and a held-out fifth."""
    from sklearn.model_selection import train_test_split

    images, labels = jxp.datasets.digits()
    split = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    train_images, test_images, train_labels, test_labels = map(jnp.asarray, split)
    return Digits(train_images, train_labels), Digits(test_images, test_labels)


def train(
    digits: Digits, *, seed: int, epochs: int = 20, batch: int = 64, quiet: bool = False
) -> Any:
    """Fits the CNN with Adam; returns its variables."""
    from tqdm import tqdm

    model, optimizer = CNN(), optax.adam(3e-3)
    variables = jax.jit(model.init)(jax.random.key(seed), digits.images[:1])
    state = optimizer.init(variables)

    def loss(variables, images, labels):
        logits = model.apply(variables, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(variables, state, images, labels):
        value, grads = jax.value_and_grad(loss)(variables, images, labels)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(variables, updates), state, value

    rng = np.random.default_rng(seed)
    for _ in (bar := tqdm(range(epochs), desc="training", unit="epoch", disable=quiet)):
        shuffled = rng.permutation(len(digits.labels))
        for start in range(0, len(shuffled) - batch + 1, batch):
            chosen = shuffled[start : start + batch]
            variables, state, value = step(
                variables, state, digits.images[chosen], digits.labels[chosen]
            )
        bar.set_postfix(loss=f"{value:.4f}")
    return variables


def explainers(classify: Classifier) -> dict[str, Explain]:
    """Each method's name and its compiled function over a batch of images and classes."""

    def class_logit(image: Array, index: Array) -> Array:
        return jxp.logit(classify, index)(image)

    explain_one = {
        "gradient × input": jxp.input_x_gradient(class_logit, BLANK),
        "integrated gradients": jxp.integrated_gradients(class_logit, BLANK),
        "DeepLIFT": jxp.deeplift(class_logit, BLANK),
    }
    return {name: jax.jit(jax.vmap(explain)) for name, explain in explain_one.items()}


def relative_gap(
    classify: Classifier, contributions: Array, images: Array, classes: Array
) -> Array:
    """Largest |f(x) - f(ref) - Σ contributions| / |f(x) - f(ref)| of a batch."""

    def one(contribution: Array, image: Array, index: Array) -> Array:
        f = jxp.logit(classify, index)
        change = f(image) - f(jnp.full_like(image, BLANK))
        return jnp.abs(jxp.completeness_gap(f, BLANK)(contribution, image) / change)

    return jax.jit(jax.vmap(one))(contributions, images, classes).max()


def deletion_score(
    classify: Classifier, contributions: Array, images: Array, classes: Array
) -> Array:
    """Mean fall of the class's logit while pixels go blank, largest contribution first."""

    def one(contribution: Array, image: Array, index: Array) -> Array:
        f = jxp.logit(classify, index)
        return f(image) - jxp.deletion(f, BLANK)(contribution, image)

    return jax.jit(jax.vmap(one))(contributions, images, classes).mean()


def run_times(explain: dict[str, Explain], images: Array, classes: Array) -> dict[str, float]:
    """Median seconds of each compiled method, runs interleaved so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in explain}
    for _ in range(TIMED_RUNS):
        for name, method in explain.items():
            start = time.perf_counter()
            jax.block_until_ready(method(images, classes))
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(runs)) for name, runs in seconds.items()}


def compare(
    classify: Classifier, explain: dict[str, Explain], images: Array, classes: Array
) -> list[Row]:
    """The table's rows: every method's completeness gap, cost and deletion score."""
    contributions = {name: method(images, classes) for name, method in explain.items()}
    seconds = run_times(explain, images, classes)
    return [
        Row(
            name,
            float(relative_gap(classify, scores, images, classes)),
            seconds[name] / seconds["DeepLIFT"],
            float(deletion_score(classify, scores, images, classes)),
        )
        for name, scores in contributions.items()
    ]


def format_table(rows: Sequence[Row], n: int, random_score: float) -> str:
    """The table as text, with what its columns mean."""
    lines = [f"{'method':<22}{'completeness gap':>18}{'cost / DeepLIFT':>18}{'deletion score':>17}"]
    lines += [
        f"{row.method:<22}{row.completeness_gap:>18.1e}{row.cost:>18.2f}{row.deletion_score:>17.2f}"
        for row in rows
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"Over {n} held-out digits, against a blank image, for the predicted class's logit f.",
            "completeness gap  max |f(x) - f(ref) - sum of contributions| / |f(x) - f(ref)|; lower "
            "is better",
            f"cost              time / DeepLIFT's, both compiled, median of {TIMED_RUNS} "
            "interleaved runs",
            "deletion score    mean fall of f while pixels go blank, largest contribution first; "
            f"higher\n{'':18}is better (random order: {random_score:.2f})",
        ]
    )


def one_of_each(labels: Array, n: int) -> np.ndarray:
    """Indices of the first n digits such that no class comes twice before all came once."""
    seen = np.zeros(10, int)
    turn = np.empty(len(labels), int)
    for i, label in enumerate(np.asarray(labels)):
        turn[i], seen[label] = seen[label], seen[label] + 1
    return np.argsort(turn, kind="stable")[:n]


def draw(
    path: Path, images: Array, labels: Array, classes: Array, maps: dict[str, Array], change: Array
) -> None:
    """One row per digit: the digit, then each method's signed map on one colour scale."""
    axes = plots.compare(
        images,
        maps,
        titles=[f"digit {n}, predicted {k}" for n, k in zip(labels, classes, strict=True)],
        captions=[f"f(x) − f(blank) = {rise:+.2f}" for rise in change],
        label="contribution to f, the predicted class's logit",
        image_cmap="gray_r",
    )
    axes[0, 0].figure.savefig(path)


def require_extras() -> None:
    """Ends with a word on what to install where the demo's own dependencies are missing."""
    packages = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
    missing = []
    for module, package in packages.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        sys.exit(
            f"jaxplain: the demo needs {', '.join(missing)}, which the demo extra brings: "
            'pip install "jaxplain[demo]"'
        )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("jaxplain", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("jaxplain-out"), help="folder for the figure (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of split, weights, batches (0)")
    parser.add_argument("--digits", type=int, default=4, metavar="N", help="in the figure (4)")
    parser.add_argument("--quiet", action="store_true", help="print the figure's path only")
    options = parser.parse_args(argv)
    if not 1 <= options.digits <= MAX_ROWS:
        parser.error(f"--digits must be between 1 and {MAX_ROWS}, got {options.digits}")
    if options.seed < 0:
        parser.error(f"--seed must not be negative, got {options.seed}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out} can't be made a folder: {error.strerror}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, explains, compares, draws."""
    options = parse(argv)
    require_extras()

    def say(text: Any = "") -> None:
        if not options.quiet:
            print(text)

    training, held_out = load_digits(options.seed)
    variables = train(training, seed=options.seed, quiet=options.quiet)

    def classify(image: Array) -> Array:
        return CNN().apply(variables, image[None])[0]

    predicted = jax.jit(jax.vmap(classify))(held_out.images).argmax(-1)
    accuracy = float((predicted == held_out.labels).mean())
    say(f"held-out accuracy {accuracy:.1%} of {len(predicted)} digits\n")

    explain = explainers(classify)
    images, classes = held_out.images[:EXPLAINED], predicted[:EXPLAINED]
    rows = compare(classify, explain, images, classes)
    noise = jax.random.normal(jax.random.key(options.seed), images.shape)
    random_score = float(deletion_score(classify, noise, images, classes))
    say(format_table(rows, len(images), random_score))

    chosen = one_of_each(held_out.labels, options.digits)
    images, labels, classes = held_out.images[chosen], held_out.labels[chosen], predicted[chosen]
    maps = {name: method(images, classes) for name, method in explain.items()}
    rises = jax.vmap(classify)(images) - classify(jnp.full(IMAGE_SHAPE, BLANK))
    change = jnp.take_along_axis(rises, classes[:, None], axis=-1)[:, 0]
    path = options.out / "digits.png"
    draw(path, images, labels, classes, maps, change)
    print(path if options.quiet else f"\nfigure: {path}")
