"""Shapley values and their kin: reference numbers, axioms, estimators, errors."""

import functools
import itertools
import operator
from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jxp
from jaxplain.games import coalitions
from jaxplain.methods.shapley import designs, indices
from jaxplain.methods.shapley.gaussian_process import Kernel
from tests.support.cases import load
from tests.support.marks import some_slow

KEY = jax.random.key(0)


# The reference numbers.


class Numpy:
    """What the cases' Python uses of NumPy, in JAX."""

    max, maximum, min, sin, exp, tanh = (
        jnp.max, jnp.maximum, jnp.min, jnp.sin, jnp.exp, jnp.tanh,
    )  # fmt: skip


def function(case):
    """The case's Python as a JAX function; truth is a product of conditions."""
    source = case["python"].replace("float", "").replace(">0.5 and ", ">0.5) & (")
    return eval(source, {"np": Numpy})


def security_council(mask):
    """Five permanent members with a veto and nine votes in all."""
    return (jnp.all(mask[:5] > 0.5) & (mask.sum() >= 8.5)).astype(float)


def game(case):
    """The case's table of values as a function of a vector of zeros and ones."""
    if case["values_by_bitmask"] is None:
        assert case["name"] == "un_security_council"
        return security_council
    table = jnp.asarray(case["values_by_bitmask"], float)
    return lambda mask: table[(mask > 0.5) @ (2 ** jnp.arange(case["n_players"]))]


def run(explain, x, key=None):
    """Compiled, for one program compiles faster than its operations one by one."""
    return jax.jit(explain if key is None else lambda x: explain(x, key=key))(x)


def of_game(case, method, **options):
    return run(method(game(case), 0.0, **options), jnp.ones(case["n_players"]))


def baseline(case, method=jxp.shapley_values):
    return run(method(function(case), jnp.asarray(case["baseline"])), jnp.asarray(case["x"]))


def linked(case):
    f = function(case)
    logit = lambda x: jnp.log(f(x)) - jnp.log1p(-f(x))
    return run(jxp.shapley_values(logit, jnp.asarray(case["baseline"])), jnp.asarray(case["x"]))


def background(case, method=jxp.shapley_values):
    return run(method(function(case), jnp.asarray(case["background"])), jnp.asarray(case["x"]))


def unions(case):
    labels = np.zeros(case["n_players"], int)
    for label, members in enumerate(case["structure"]):
        labels[members] = label
    return labels


METHODS = {
    "shapley_baseline": baseline,
    "shapley_baseline_link": linked,
    "shapley_marginal": background,
    "integrated_gradients": functools.partial(baseline, method=jxp.integrated_gradients),
    "expected_gradients": functools.partial(
        background, method=jxp.expected(jxp.integrated_gradients)
    ),
    "tu_shapley": functools.partial(of_game, method=jxp.shapley_values),
    "tu_banzhaf": functools.partial(of_game, method=jxp.banzhaf_values),
    "tu_owen": lambda case: of_game(case, jxp.owen_values, groups=unions(case)),
}
CASES = load("shapley")
SCORED = [case for case in CASES if case["method"] in METHODS]
INTERACTIONS = [case for case in CASES if case["method"] == "interaction_indices"]


def test_every_case_is_scored():
    rest = {case["method"] for case in CASES} - METHODS.keys()
    assert rest == {"interaction_indices", "shapley_conditional"}  # the last: another v than ours


@pytest.mark.promotes
@pytest.mark.parametrize("case", SCORED, ids=operator.itemgetter("name"))
def test_case(case, x64):
    np.testing.assert_allclose(METHODS[case["method"]](case), case["expected"], atol=case["tol"])


@pytest.mark.promotes
@pytest.mark.parametrize("case", INTERACTIONS, ids=operator.itemgetter("name"))
def test_interactions(case, x64):
    expected, n = case["expected"], case["n_players"]
    for index in ("SII", "STII", "FSII"):
        got = of_game(case, jxp.shapley_interactions, index=index)
        wanted = np.zeros((n, n))
        for players, value in expected[f"{index}_2"].items():
            if "," in players:
                i, j = map(int, players.split(","))
                wanted[i, j] = wanted[j, i] = value
        np.testing.assert_allclose(got, wanted, atol=case["tol"])
    halves = np.array(expected["shap_matrix_SII"])
    np.fill_diagonal(halves, 0)
    got = of_game(case, jxp.shapley_interactions)
    np.testing.assert_allclose(got, 2 * halves, atol=case["tol"])
    singles = [expected["SV"][str(i)] for i in range(n)]
    np.testing.assert_allclose(of_game(case, jxp.shapley_values), singles, atol=case["tol"])


# Games to estimate.

N = 9


@pytest.fixture(scope="module")
def network():
    """A relu network of N inputs and three outputs."""
    first, second, third = jax.random.split(jax.random.key(3), 3)
    w = jax.random.normal(first, (N, 24)) / 2
    v = jax.random.normal(second, (24, 3)) / 4
    b = jax.random.normal(third, (24,)) / 2
    return lambda x: jax.nn.relu(x @ w + b) @ v


X = jnp.linspace(-1.5, 2.0, N)
REFS = jax.random.normal(jax.random.key(5), (3, N))


def sampled(samples, **options):
    """Every method that samples, by name, as explain(f, refs)(x, key=)."""
    unions = {"groups": np.arange(N) // 3}
    return {
        "kernel": functools.partial(jxp.shapley_values, samples=samples, **options),
        "kernel_shap": functools.partial(jxp.kernel_shap, samples=samples, **options),
        "permutation": functools.partial(jxp.permutation_shapley, samples=samples, **options),
        "banzhaf": functools.partial(jxp.banzhaf_values, samples=samples, **options),
        "owen": functools.partial(jxp.owen_values, samples=samples, **unions, **options),
    }


SHAPLEY = ("kernel", "kernel_shap", "permutation")


@pytest.mark.parametrize("name", sampled(0))
def test_linear_games_are_exact(name, x64):
    """w_i (x_i − E x_i), whatever is drawn."""
    x, refs = X.astype(float), REFS.astype(float)
    w = jnp.linspace(-3.0, 1.0, N)
    explain = sampled(2 * N + 20)[name](lambda x: x @ w + 7, refs)
    np.testing.assert_allclose(run(explain, x, KEY), w * (x - refs.mean(0)), atol=1e-12)


@pytest.mark.slow
def test_additive_games_of_many_players_are_exact(x64):
    x = jax.random.normal(KEY, (60,))
    f = lambda x: jnp.sum(jnp.sin(x) * jnp.arange(60.0))
    exact = (jnp.sin(x) - jnp.sin(0.3)) * jnp.arange(60.0)
    for method in (jxp.shapley_values, jxp.kernel_shap, jxp.permutation_shapley):
        explain = method(f, 0.3, samples=400)
        scores = run(explain, x, KEY)
        np.testing.assert_allclose(scores, exact, atol=1e-10)


@pytest.mark.promotes
@pytest.mark.parametrize("name", sampled(0))
def test_estimates_are_near_and_their_errors_honest(name, network):
    """The squared error in standard errors is about 1 in the mean over players, keys, outputs."""
    exact = {
        "banzhaf": jxp.banzhaf_values,
        "owen": functools.partial(jxp.owen_values, groups=np.arange(N) // 3),
    }.get(name, jxp.shapley_values)(network, REFS)
    exact = run(exact, X)
    explain = sampled(100, standard_error=True)[name](network, REFS)
    keys = jax.random.split(KEY, 40)
    got, error = jax.jit(jax.vmap(lambda key: explain(X, key=key)))(keys)
    relative = jnp.square(got - exact).sum() / jnp.square(exact).sum() / len(keys)
    assert relative < 0.05
    assert 0.4 < jnp.mean(jnp.square(got - exact)) / jnp.mean(jnp.square(error)) < 2.0
    if name in SHAPLEY:
        total = network(X) - jax.vmap(network)(REFS).mean(0)
        np.testing.assert_allclose(got.sum(-1), jnp.broadcast_to(total, (40, 3)), atol=1e-4)


@pytest.mark.slow
def test_the_default_is_ahead(network):
    keys = jax.random.split(KEY, 10)
    exact = run(jxp.shapley_values(network, REFS), X)

    def error(name, samples):
        explain = sampled(samples)[name](network, REFS)
        got = jax.jit(jax.vmap(lambda key: explain(X, key=key)))(keys)
        return jnp.square(got - exact).mean()

    for samples in (5 * N, 20 * N):
        best = error("kernel", samples)
        assert all(best < error(other, samples) for other in ("kernel_shap", "permutation"))


def test_all_coalitions_are_exact_without_a_key(network):
    exact = run(jxp.shapley_values(network, REFS), X)
    for method in (jxp.shapley_values, jxp.kernel_shap):
        got, error = run(method(network, REFS, samples=600, standard_error=True), X)
        np.testing.assert_allclose(got, exact, atol=1e-6)
        assert (error == 0).all()


@pytest.mark.slow
def test_many_samples_are_averaged(network):
    """More than one design's worth, for players too many to enumerate."""
    n, x = 20, jnp.linspace(-1.0, 1.0, 20)
    f = lambda x: jnp.tanh(x[:10] @ x[10:] + x.sum()) + x @ jnp.arange(20.0) / 10
    explain = jxp.shapley_values(f, 0.0, samples=9000, chunk=1000, standard_error=True)
    got, error = jax.jit(explain)(x, key=KEY)
    assert error.max() < 0.01
    np.testing.assert_allclose(got.sum(), f(x) - f(0 * x), atol=1e-4)
    assert got.shape == (n,)


def share(index, order, size):
    """What an interaction of `size` players counts in those of `order` among them."""
    if size == order:
        return 1.0
    return {
        "SII": 1 / (size - order + 1),
        "STII": 1 / comb(size, order),
        "FSII": comb(size - 1, order) / comb(size + order - 1, 2 * order) / 2,
    }[index]


@pytest.fixture(scope="module")
def six(network):
    """A game of six players, its interactions m(R) by number, and their coalitions."""
    f = lambda x: network(jnp.concatenate([x, jnp.zeros(N - 6)]))[0]
    with jax.enable_x64(True):
        x, masks, numbers = jnp.linspace(-1.0, 2.0, 6), coalitions.every(6), np.arange(64)
        interactions = np.array(jax.vmap(f)(masks * x))
    for player in range(6):
        has = numbers >> player & 1 == 1
        interactions[has] -= interactions[numbers[has] ^ 1 << player]
    return f, x, interactions, masks


@pytest.mark.promotes
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("index", ["SII", "STII", "FSII"])
def test_interactions_from_the_moebius_transform(index, order, six, x64):
    f, x, interactions, masks = six
    got = run(jxp.shapley_interactions(f, 0.0, order=order, index=index), x)
    for members in itertools.permutations(range(6), order):
        over = masks[:, members].all(1)
        shares = [share(index, order, size) for size in masks[over].sum(1)]
        np.testing.assert_allclose(got[members], shares @ interactions[over], atol=1e-9)
    assert got[0].ravel()[0] == got[1, 1].ravel()[0] == 0


@pytest.mark.slow
def test_sampled_interactions():
    """Exact for a quadratic game; near, and honest, for a network."""
    n = 10
    a = jax.random.normal(KEY, (n, n))
    f = lambda x: x @ a @ x + jnp.sin(x).sum()
    x = jnp.linspace(0.5, 2.0, n)
    exact = (a + a.T) * jnp.outer(x, x) * (1 - jnp.eye(n))
    for index in ("SII", "STII", "FSII"):
        explain = jxp.shapley_interactions(f, 0.0, index=index, samples=240)
        got = run(explain, x, KEY)
        np.testing.assert_allclose(got, exact, atol=2e-3)


@pytest.mark.promotes
def test_sampled_interactions_have_errors(network):
    f = lambda x: network(x)[0]
    exact = run(jxp.shapley_interactions(f, 0.0), X)
    explain = jxp.shapley_interactions(f, 0.0, samples=160, standard_error=True)
    got, error = jax.jit(jax.vmap(lambda key: explain(X, key=key)))(jax.random.split(KEY, 10))
    pair = ~np.eye(N, dtype=bool)
    assert (error[:, pair] > 0).all()
    ratio = jnp.square(got - exact)[:, pair].mean() / jnp.square(error)[:, pair].mean()
    assert 0.4 < ratio < 2.0


@pytest.mark.parametrize("index", ["SII", "STII", "FSII", "BII"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_kernel_s_functionals(index, order):
    """In closed form, and as the sums that define the index."""
    n = 6
    masks, table = coalitions.every(n), indices.coefficients(index, n, order)
    sets = indices.sets(n, order)
    of = np.array([table[masks[:, members].sum(1), masks.sum(1)] for members in sets])
    for odd in (True, False):
        kernel = Kernel(index, n, order, odd, pairs=True)
        covariance = kernel(masks, masks)
        np.testing.assert_allclose(kernel.functional(masks), of @ covariance, atol=1e-12)
        np.testing.assert_allclose(
            np.full(len(sets), kernel.variance()), np.diag(of @ covariance @ of.T), atol=1e-12
        )
        np.testing.assert_allclose(kernel.flat_functional(), of @ kernel.flat(masks), atol=1e-12)


@pytest.mark.parametrize("sizes", ["leverage", "kernel"])
@pytest.mark.parametrize("n, pairs", [(2, 1), (5, 4), (5, 15), (8, 40), (8, 127), (30, 500)])
def test_designs_draw_distinct_pairs(n, pairs, sizes):
    masks = designs.paired(n, pairs, sizes)
    assert masks.shape == (1 + pairs, n) and masks[0].all()
    both = np.concatenate([masks, ~masks])
    assert len(np.unique(both, axis=0)) == 2 * (1 + pairs)
    spread = designs.greedy(n, pairs)
    assert len(np.unique(np.concatenate([spread, ~spread]), axis=0)) == 2 * (1 + pairs)
    counts = lambda masks: np.bincount(np.minimum(masks.sum(1), n - masks.sum(1)))
    if sizes == "leverage":
        np.testing.assert_array_equal(counts(masks), counts(spread))


@pytest.mark.parametrize("n", [6, 7, 15, 20])
def test_the_least_budget_tells_all_players_apart(n):
    for masks in (designs.greedy(n, n - 1), designs.paired(n, n - 1, "kernel")):
        assert np.linalg.matrix_rank(np.where(masks, 1.0, -1.0)) == n


# Unions.


@pytest.mark.promotes
def test_owen_values_in_orders_one_by_one(network, x64):
    """The mean over all orders in which no union of two levels is interrupted."""
    n = 6
    coarse, fine = np.array([0, 0, 0, 0, 1, 1]), np.array([5, 5, 2, 2, 2, 7])
    f = lambda x: network(jnp.concatenate([x, jnp.zeros(N - n)]))
    x = np.linspace(-1.0, 2.0, n)
    adds = []
    values = jax.vmap(f)(jnp.asarray(coalitions.every(n) * x))
    for order in itertools.permutations(range(n)):
        runs = lambda labels: len(list(itertools.groupby(labels[list(order)])))
        nested = coarse * 10 + fine
        if runs(coarse) == 2 and runs(nested) == len(set(nested)):
            before = np.cumsum([0] + [2**player for player in order])
            adds.append(np.diff(values[before], axis=0)[np.argsort(order)])
    explain = functools.partial(jxp.owen_values, f, 0.0, groups=[coarse, fine])
    np.testing.assert_allclose(run(explain(), jnp.asarray(x)).T, np.mean(adds, 0), atol=1e-9)
    drawn = explain(samples=4000, standard_error=True)
    got, error = run(drawn, jnp.asarray(x), KEY)
    assert (abs(got.T - np.mean(adds, 0)) < 4 * error.T + 1e-9).all()


def test_trivial_unions_give_shapley_values(network):
    exact = run(jxp.shapley_values(network, 0.0), X)
    for groups in (np.zeros(N, int), np.arange(N)):
        np.testing.assert_allclose(
            run(jxp.owen_values(network, 0.0, groups=groups), X), exact, atol=1e-5
        )


# The input.


def test_groups_are_players_across_leaves(network):
    x = {"a": jnp.arange(1.0, 7.0).reshape(2, 3), "b": jnp.array([1.0, -2.0])}
    f = lambda x: network(jnp.concatenate([x["a"].ravel(), x["b"], jnp.ones(1)]))
    groups = {"a": np.array([[4], [9]]), "b": np.array([9, 12])}  # rows; the second with b[0]
    got = run(jxp.shapley_values(f, 0.0, groups=groups), x)
    parts = lambda s: {
        "a": x["a"] * jnp.array([[s[0]], [s[1]]]),
        "b": x["b"] * jnp.array([s[1], s[2]]),
    }
    by_hand = run(jxp.shapley_values(lambda s: f(parts(s)), 0.0), jnp.ones(3))
    np.testing.assert_allclose(got["a"], by_hand[:, jnp.array([[0] * 3, [1] * 3])], rtol=1e-5)
    np.testing.assert_allclose(got["b"], by_hand[:, 1:], rtol=1e-5)
    pairs = run(jxp.shapley_interactions(f, 0.0, groups=groups), x)
    assert pairs.shape == (3, 3, 3)


def test_arguments_and_outputs(network):
    f = lambda bias, x, k: network(x)[k] + bias
    by_argnums = jxp.shapley_values(f, REFS, argnums=1)
    each = jax.jit(jax.vmap(by_argnums, (None, None, 0)))(1.0, X, jnp.arange(3))
    np.testing.assert_allclose(each, run(jxp.shapley_values(network, REFS), X), atol=1e-6)


@pytest.mark.parametrize("chunk", some_slow([50, 1, 1000], [1, 1000]))
def test_chunks_change_rounding_only(chunk, network):
    def explain(name, chunk):
        method = sampled(60, chunk=chunk)[name](network, REFS)
        return run(method, X, KEY)

    for name in ("kernel", "permutation"):
        np.testing.assert_allclose(explain(name, None), explain(name, chunk), atol=1e-5)


def test_chunks_bound_memory():
    w = jax.random.normal(KEY, (12, 4096))
    f = lambda x: jax.nn.logsumexp(jax.nn.relu(x @ w))  # two passes over the layer: it is kept

    def temporary(chunk):
        explain = jax.jit(jxp.shapley_values(f, 0.0, chunk=chunk))
        return explain.lower(jnp.ones(12)).compile().memory_analysis().temp_size_in_bytes

    assert temporary(64) < temporary(None) / 8


@pytest.mark.slow
def test_a_million_coalitions_in_the_memory_of_a_chunk():
    """All at once their hidden layers would take a gigabyte, their values take four megabytes."""
    w = jax.random.normal(KEY, (30, 256))
    f = lambda x: jax.nn.relu(x @ w).sum()
    for method in (jxp.shapley_values, jxp.permutation_shapley):
        explain = jax.jit(method(f, 0.0, samples=10**6, chunk=256))
        program = explain.lower(jnp.ones(30), key=KEY).compile()
        assert program.memory_analysis().temp_size_in_bytes < 32e6
    got = jax.jit(jxp.shapley_values(f, 0.0, samples=10**6, chunk=256))(jnp.ones(30), key=KEY)
    np.testing.assert_allclose(got.sum(), f(jnp.ones(30)) - f(jnp.zeros(30)), rtol=1e-5)


def test_transformations(network):
    xs, keys = jnp.stack([X, X[::-1], X**2]), jax.random.split(KEY, 3)
    explain = jxp.shapley_values(network, REFS, samples=40)
    one = jax.jit(lambda x, key: explain(x, key=key))
    assert (one(X, KEY) == one(X, KEY)).all()
    assert abs(one(X, KEY) - one(X, keys[1])).max() > 1e-4
    by_key = jax.jit(jax.vmap(lambda x, key: explain(x, key=key)))(xs, keys)
    np.testing.assert_allclose(by_key[2], one(xs[2], keys[2]), atol=1e-5)


@pytest.mark.slow
def test_eager_is_compiled(network):
    for explain in (jxp.shapley_values(network, REFS), jxp.shapley_interactions(network, REFS)):
        np.testing.assert_allclose(explain(X), run(explain, X), atol=1e-5)


def test_derivatives():
    """Shapley values of x0 x1 are x0 x1 / 2 each."""
    explain = jxp.shapley_values(lambda x: x[0] * x[1] + x[2] ** 2, 0.0)
    jacobian = jax.jit(jax.jacobian(explain))(jnp.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(jacobian, [[1.5, 1, 0], [1.5, 1, 0], [0, 0, 8]], atol=1e-5)


def test_half_precision(network):
    x = X.astype(jnp.bfloat16)
    f = lambda x: network(x.astype(jnp.float32)).astype(jnp.bfloat16)
    got = run(jxp.shapley_values(f, 0.0), x)
    exact = run(jxp.shapley_values(network, 0.0), x.astype(jnp.float32))
    np.testing.assert_allclose(got, exact, atol=0.05)


# Errors.


def test_errors_of_budgets(network):
    many = jnp.ones(40)
    with pytest.raises(ValueError, match=r"40 players have 2\^40 = 1.1e\+12 coalitions.*samples="):
        jxp.shapley_values(jnp.sum, 0.0)(many)
    with pytest.raises(ValueError, match="40 players take at least 80 samples, and samples is 79"):
        jxp.kernel_shap(jnp.sum, 0.0, samples=79)(many, key=KEY)
    with pytest.raises(ValueError, match=r"2 order\(s\) of 40 players and the reverse take 158"):
        jxp.permutation_shapley(jnp.sum, 0.0, samples=157, standard_error=True)(many, key=KEY)
    with pytest.raises(ValueError, match=r"these unions take \d+ evaluations"):
        jxp.owen_values(jnp.sum, 0.0, groups=np.zeros(40, int))(many)
    with pytest.raises(TypeError, match=r"a key is missing.*coalitions"):
        jxp.shapley_values(jnp.sum, 0.0, samples=100)(many)
    with pytest.raises(TypeError, match="key"):
        jxp.shapley_values(jnp.sum, 0.0)(jnp.ones(3), key=KEY)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        jxp.shapley_values(jnp.sum, 0.0, chunk=0)(jnp.ones(3))


def test_errors_of_groups():
    x = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    of = lambda groups, x=x: jxp.shapley_values(lambda x: x["a"].sum(), 0.0, groups=groups)(x)
    shown = r"broadcast to every leaf[\s\S]*groups: [\s\S]*x: [\s\S]*\(2, 3\)"
    for groups in ({"a": np.zeros((2, 3), int)}, {"a": np.zeros(2, int), "b": np.zeros(2, int)}, 0):
        with pytest.raises(ValueError, match=shown):
            of(groups)
    with pytest.raises(TypeError, match="must be integers"):
        of({"a": np.zeros(3), "b": np.zeros(2, int)})
    with pytest.raises(ValueError, match="every element of x has a group"):
        of({"a": np.array([0, 1, -1]), "b": np.zeros(2, int)})
    with pytest.raises(TypeError, match="must be known numbers"):
        jax.jit(lambda groups: of(groups))({"a": jnp.zeros(3, int), "b": jnp.zeros(2, int)})
    with pytest.raises(ValueError, match="player 0 lies in more than one"):
        jxp.owen_values(jnp.sum, 0.0, groups=np.arange(4), players=np.array([0, 0, 1, 2]))(
            jnp.ones(4)
        )
    with pytest.raises(ValueError, match="no elements"):
        jxp.shapley_values(jnp.sum, 0.0)(jnp.ones(0))


@pytest.mark.promotes
def test_errors_of_references_and_outputs():
    with pytest.raises(ValueError, match="does not broadcast"):
        jxp.shapley_values(jnp.sum, jnp.ones(3))(jnp.ones(4))
    with pytest.raises(ValueError, match="leading reference axis"):
        jxp.shapley_values(jnp.sum, jnp.ones((2, 3)))(jnp.ones(4))
    with pytest.raises(TypeError, match="one array"):
        jxp.shapley_values(lambda x: (x, x), 0.0)(jnp.ones(4))
    scores = jxp.shapley_values(lambda x: x.sum() * 1.0, 0)(jnp.ones(4, int))
    np.testing.assert_allclose(scores, np.ones(4), rtol=1e-6)  # integers are players, too


def test_values_that_are_not_finite_are_named():
    f = lambda x: jnp.log(x[0] + x[2]) + x[1]
    explain = jxp.shapley_values(f, 0.0)
    with pytest.raises(FloatingPointError, match=r"-inf with the players \[\] of 3.*2 of 8"):
        explain(jnp.ones(3))
    assert not jnp.isfinite(jax.jit(explain)(jnp.ones(3))).any()


@pytest.mark.parametrize("name", sampled(0))
def test_sampled_values_that_are_not_finite_are_named(name):
    explain = sampled(40)[name](lambda x: jnp.where(x[0] == 0, jnp.inf, x.sum()), 0.0)
    with pytest.raises(FloatingPointError, match=r"f is inf with the players \[.*\] of 9 present"):
        explain(jnp.ones(N), key=KEY)


def test_one_player_gets_all():
    f = lambda x: x[0] ** 2
    for method in (jxp.shapley_values, jxp.kernel_shap, jxp.permutation_shapley):
        got = method(f, 1.0, samples=2)(jnp.array([3.0]), key=KEY)
        np.testing.assert_allclose(got, [8.0])


def test_errors_of_interactions():
    with pytest.raises(ValueError, match="order must be 2 or 3"):
        jxp.shapley_interactions(jnp.sum, 0.0, order=4)
    with pytest.raises(ValueError, match="unknown index 'BZF'"):
        jxp.shapley_interactions(jnp.sum, 0.0, index="BZF")
    with pytest.raises(ValueError, match="takes as many players"):
        jxp.shapley_interactions(jnp.sum, 0.0, order=3)(jnp.ones(2))
