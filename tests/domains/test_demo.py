"""The main job, from its parts with known answers to its command line."""

import os
import re
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import demo

pytest.importorskip("sklearn")


def linear(image):
    """Ten logits, the k-th of them k times the ink."""
    return image.sum() * jnp.arange(10.0)


@pytest.fixture
def inked():
    images = jax.random.uniform(jax.random.key(0), (3, *demo.IMAGE_SHAPE))
    return images, jnp.array([1, 4, 9])


def png_size(path):
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", head[16:24])


@pytest.mark.promotes
def test_relative_gap_of_whole_and_of_half_the_contributions(inked):
    images, classes = inked
    whole = images * classes[:, None, None, None]
    assert demo.relative_gap(linear, whole, images, classes) < 1e-6
    np.testing.assert_allclose(demo.relative_gap(linear, whole / 2, images, classes), 0.5, 1e-6)


def test_deletion_score_of_a_linear_function(inked):
    images, classes = inked
    ordered = -np.sort(-np.asarray(images).reshape(3, -1), axis=-1)

    def mean_fall(pixels):
        """Straight lines between one pixel and the next."""
        sums = np.cumsum(pixels, -1)
        return ((sums - pixels / 2).mean(-1) * np.asarray(classes)).mean()

    best, worst = mean_fall(ordered), mean_fall(ordered[:, ::-1])
    np.testing.assert_allclose(demo.deletion_score(linear, images, images, classes), best, 1e-5)
    np.testing.assert_allclose(demo.deletion_score(linear, -images, images, classes), worst, 1e-5)
    assert worst < best


def test_one_of_each_class_before_any_comes_twice():
    labels = jnp.array([5, 5, 3, 5, 3, 1])
    assert demo.one_of_each(labels, 5).tolist() == [0, 2, 5, 1, 4]


def few(digits):
    return jax.tree.map(lambda array: array[:128], digits)


@pytest.mark.promotes
def test_training_is_reproducible():
    training = few(demo.load_digits(seed=3)[0])
    once, again = (demo.train(training, seed=3, epochs=1, quiet=True) for _ in range(2))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), once, again)))


def test_a_split_holds_out_a_fifth_and_depends_on_the_seed():
    training, held_out = demo.load_digits(seed=0)
    assert training.images.shape == (1437, 8, 8, 1) and held_out.labels.shape == (360,)
    assert held_out.images.min() == 0 and held_out.images.max() == 1
    assert (demo.load_digits(seed=1)[1].labels != held_out.labels).any()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """One run as a user starts it: its output and its folder."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    command = [sys.executable, "-m", "jaxplain", "--out", str(out), "--seed", "1", "--digits", "3"]
    # As a user's shell has it: the tests' own flags make compiled code slow.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return run, out


@pytest.mark.slow
def test_the_whole_run(whole_run):
    run, out = whole_run
    assert "training: 100%" in run.stderr
    assert float(re.search(r"held-out accuracy ([\d.]+)%", run.stdout)[1]) > 95

    number = r"\s+([\d.]+(?:e[+-]\d+)?)"
    rows = re.findall(rf"^(\S.*?){number}{number}{number}$", run.stdout, re.MULTILINE)
    table = {name: tuple(map(float, numbers)) for name, *numbers in rows}
    assert [*table] == ["gradient × input", "integrated gradients", "DeepLIFT"]

    columns = zip(*table.values(), strict=True)
    gap, cost, deletion = (dict(zip(table, column, strict=True)) for column in columns)
    assert gap["DeepLIFT"] < 1e-5 < gap["integrated gradients"] < gap["gradient × input"]
    assert cost["DeepLIFT"] == 1 and cost["integrated gradients"] > 3
    random_order = float(re.search(r"random order: ([-\d.]+)", run.stdout)[1])
    assert min(deletion.values()) > random_order

    assert f"figure: {out / 'digits.png'}" in run.stdout
    width, height = png_size(out / "digits.png")
    assert width > 800 and height > 800


@pytest.mark.slow
def test_quiet_prints_only_the_path(tmp_path, monkeypatch, capfd):
    train = demo.train
    monkeypatch.setattr(demo, "train", lambda all, **kw: train(few(all), **kw, epochs=1))
    monkeypatch.setattr(demo, "EXPLAINED", 8)
    monkeypatch.setattr(demo, "TIMED_RUNS", 1)
    demo.main(["--out", str(tmp_path), "--digits", "1", "--quiet"])
    printed = capfd.readouterr()
    assert printed.out == f"{tmp_path / 'digits.png'}\n" and printed.err == ""
    assert png_size(tmp_path / "digits.png")[0] > 800


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--digits", "0"], "--digits must be between 1 and 20, got 0"),
        (["--digits", "many"], "invalid int value: 'many'"),
        (["--seed", "-1"], "--seed must not be negative, got -1"),
        (["--out", __file__], "can't be made a folder: File exists"),
    ],
)
def test_options_that_make_no_sense(argv, words, capsys):
    with pytest.raises(SystemExit) as ended:
        demo.main(argv)
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "package"),
    [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib"), ("tqdm", "tqdm")],
)
def test_a_missing_package_names_the_extra(module, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)  # importing it now raises ImportError
    with pytest.raises(SystemExit) as ended:
        demo.main(["--out", str(tmp_path)])
    assert f"needs {package}," in ended.value.code
    assert 'pip install "jaxplain[demo]"' in ended.value.code
