"""Programs of other libraries, and of JAX's own corners, all of which `jax.grad` differentiates.

Each is a function without arguments that gives f and an input; the reference is drawn near it.
A library is imported by the program that needs it, which is skipped where that is missing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from tests.support.checks import draw, readout

Program = Callable[[], tuple[Callable, Any]]
PROGRAMS: dict[str, Program] = {}

A = draw(1, 4, 4, scale=0.6)
W = draw(2, 4, 4, scale=0.5)
SPD = A @ A.T + jnp.eye(4)
SPARSE = np.array([[1.0, 0, 2, 0], [0, -1, 0, 0.5], [0.5, 0, 0, 0], [0, 0, 3, 0]], np.float32)


def program(build: Program) -> Program:
    PROGRAMS[build.__name__] = build
    return build


def short(f: Callable, seed: int = 3, *shape: int, shift: float = 0.0) -> tuple[Callable, Any]:
    """f, read out, of a few normal numbers."""
    return lambda x: readout(f(x)), draw(seed, *(shape or (4,)), scale=0.5) + shift


def library(name: str) -> Any:
    return pytest.importorskip(name, exc_type=ImportError)


# --- differential equations ----------------------


def _solve(adjoint: str, solver: str = "Tsit5", steps: str = "constant") -> tuple[Callable, Any]:
    diffrax = library("diffrax")
    terms = diffrax.ODETerm(lambda t, y, w: jnp.tanh(w @ y) - 0.3 * y)
    controller = {
        "constant": lambda: diffrax.ConstantStepSize(),
        "adaptive": lambda: diffrax.PIDController(rtol=1e-4, atol=1e-5),
    }[steps]()

    def f(x: Any) -> Any:
        return diffrax.diffeqsolve(
            terms, getattr(diffrax, solver)(), 0.0, 1.0, 0.2, x, args=W,
            adjoint=getattr(diffrax, adjoint)(), stepsize_controller=controller, max_steps=64,
        ).ys[-1]  # fmt: skip

    return short(f)


@program
def diffrax_checkpointed() -> Any:
    return _solve("RecursiveCheckpointAdjoint")


@program
def diffrax_checkpointed_adaptive() -> Any:
    return _solve("RecursiveCheckpointAdjoint", steps="adaptive")


@program
def diffrax_backsolve() -> Any:
    return _solve("BacksolveAdjoint")


@program
def diffrax_backsolve_adaptive() -> Any:
    return _solve("BacksolveAdjoint", steps="adaptive")


@program
def diffrax_direct() -> Any:
    return _solve("DirectAdjoint")


@program
def diffrax_implicit() -> Any:
    return _solve("RecursiveCheckpointAdjoint", solver="Kvaerno3", steps="adaptive")


@program
def diffrax_of_a_rate() -> Any:
    """x is a parameter of the vector field."""
    diffrax = library("diffrax")
    terms = diffrax.ODETerm(lambda t, y, rate: -rate * y + jnp.sin(t))

    def f(x: Any) -> Any:
        saved = diffrax.SaveAt(ts=jnp.array([0.3, 0.7]))
        solution = diffrax.diffeqsolve(
            terms, diffrax.Heun(), 0.0, 1.0, 0.1, jnp.ones(4), args=jnp.exp(x), saveat=saved
        )
        return solution.ys

    return short(f)


@program
def odeint() -> Any:
    from jax.experimental.ode import odeint

    return short(lambda x: odeint(lambda y, t: jnp.tanh(A @ y), x, jnp.array([0.0, 0.5, 1.0])))


# --- roots, minima, least squares ----------------------


@program
def optimistix_root_find() -> Any:
    optx = library("optimistix")

    def f(x: Any) -> Any:
        solver = optx.Newton(rtol=1e-6, atol=1e-6)
        return optx.root_find(lambda y, a: y + 0.2 * jnp.tanh(W @ y) - a, solver, x, args=x).value

    return short(f)


@program
def optimistix_fixed_point() -> Any:
    optx = library("optimistix")

    def f(x: Any) -> Any:
        solver = optx.FixedPointIteration(rtol=1e-6, atol=1e-6)
        cell = lambda y, a: jnp.tanh(0.3 * W @ y + a)
        return optx.fixed_point(cell, solver, jnp.zeros(4), args=x).value

    return short(f)


@program
def optimistix_least_squares() -> Any:
    optx = library("optimistix")

    def f(x: Any) -> Any:
        solver = optx.LevenbergMarquardt(rtol=1e-6, atol=1e-6)
        residual = lambda y, a: y**3 + y - a
        return optx.least_squares(residual, solver, jnp.zeros(4), args=x).value

    return short(f)


@program
def optimistix_minimise() -> Any:
    optx = library("optimistix")

    def f(x: Any) -> Any:
        solver = optx.BFGS(rtol=1e-6, atol=1e-6)
        loss = lambda y, a: jnp.sum(jnp.cosh(y) - a * y)
        return optx.minimise(loss, solver, jnp.zeros(4), args=x).value

    return short(f)


@program
def custom_root() -> Any:
    def f(x: Any) -> Any:
        return lax.custom_root(
            lambda y: y - jnp.tanh(0.3 * y + x),
            jnp.zeros(4),
            lambda g, y: lax.fori_loop(0, 30, lambda i, y: y - g(y), y),
            lambda g, y: jnp.linalg.solve(jax.jacobian(g)(y), y),
        )

    return short(f)


@program
def root_by_a_while_loop() -> Any:
    @jax.custom_vjp
    def root(a: Any) -> Any:
        step = lambda y: (y + a / y) / 2
        return lax.while_loop(lambda y: jnp.any(jnp.abs(y * y - a) > 1e-5), step, a)

    root.defvjp(lambda a: (root(a),) * 2, lambda y, g: (g / (2 * y),))
    return short(lambda x: root(x**2 + 1) * x[::-1])


# --- linear algebra ----------------------


@program
def lineax_lu() -> Any:
    lx = library("lineax")
    return short(lambda x: lx.linear_solve(lx.MatrixLinearOperator(SPD), x, lx.LU()).value)


@program
def lineax_auto_of_x() -> Any:
    lx = library("lineax")

    def f(x: Any) -> Any:
        operator = lx.MatrixLinearOperator(SPD + jnp.outer(x, x))
        return lx.linear_solve(operator, jnp.sin(x)).value

    return short(f)


@program
def lineax_cg() -> Any:
    lx = library("lineax")
    tag = lx.positive_semidefinite_tag
    return short(
        lambda x: (
            lx.linear_solve(
                lx.MatrixLinearOperator(SPD + jnp.outer(x, x), tag), x + 1.0, lx.CG(1e-6, 1e-6)
            ).value
        )
    )


@program
def lineax_tridiagonal() -> Any:
    lx = library("lineax")
    return short(
        lambda x: (
            lx.linear_solve(
                lx.TridiagonalLinearOperator(2 + x**2, x[1:], x[:-1]), jnp.ones(4)
            ).value
        )
    )


@program
def lineax_least_squares() -> Any:
    lx = library("lineax")
    operator = lx.MatrixLinearOperator(draw(8, 6, 4))
    return short(lambda x: lx.linear_solve(operator, x, lx.QR()).value, 3, 6)


@program
def custom_linear_solve() -> Any:
    def f(x: Any) -> Any:
        matrix = SPD + jnp.diag(x**2)
        solve = lambda matvec, b: jnp.linalg.solve(jax.jacobian(matvec)(b), b)
        return lax.custom_linear_solve(lambda v: matrix @ v, x, solve, solve)

    return short(f)


@program
def scipy_cg() -> Any:
    return short(lambda x: jsp.sparse.linalg.cg(lambda v: SPD @ v + x**2 * v, x)[0])


@program
def scipy_gmres() -> Any:
    return short(lambda x: jsp.sparse.linalg.gmres(lambda v: W @ v + (2 + x**2) * v, x)[0])


def _matrix(x: Any) -> Any:
    return SPD + 0.3 * jnp.outer(x, jnp.sin(x))


def _of_matrix(name: str, f: Callable) -> None:
    PROGRAMS[name] = lambda: short(lambda x: f(_matrix(x)))


def _symmetric(name: str, f: Callable) -> None:
    PROGRAMS[name] = lambda: short(lambda x: f(SPD + 0.3 * jnp.outer(x, x)))


_of_matrix("expm", jsp.linalg.expm)
_of_matrix("det", jnp.linalg.det)
_of_matrix("slogdet", lambda m: jnp.linalg.slogdet(m)[1])
_of_matrix("inverse", jnp.linalg.inv)
_of_matrix("svd", lambda m: jnp.linalg.svd(m)[1])
_of_matrix("qr", lambda m: jnp.linalg.qr(m)[1])
_of_matrix("pinv", jnp.linalg.pinv)
_of_matrix("lstsq", lambda m: jnp.linalg.lstsq(m[:, :3], jnp.ones(4))[0])
_of_matrix("lu_solve", lambda m: jsp.linalg.lu_solve(jsp.linalg.lu_factor(m), jnp.ones(4)))
_of_matrix("matrix_power", lambda m: jnp.linalg.matrix_power(m, 3))
_of_matrix("eigvals", lambda m: jnp.abs(jnp.linalg.eigvals(m)).max())
_symmetric("eigh", lambda m: jnp.linalg.eigh(m)[0])
_symmetric("cholesky_solve", lambda m: jsp.linalg.cho_solve(jsp.linalg.cho_factor(m), jnp.ones(4)))
_symmetric("eigh_projector", lambda m: jnp.outer(*2 * [jnp.linalg.eigh(m)[1][:, -1]]))
_symmetric("nuclear_norm", lambda m: jnp.linalg.matrix_norm(m, ord="nuc"))


# --- sparse matrices ----------------------


def _sparse(name: str, f: Callable, of_x: bool = False) -> None:
    def build() -> Any:
        from jax.experimental import sparse

        matrix = sparse.BCOO.fromdense(SPARSE)
        return short(lambda x: f(matrix, sparse, x), 3, matrix.nse if of_x else 4)

    PROGRAMS[name] = build


def _with_data(matrix: Any, sparse: Any, x: Any) -> Any:
    return sparse.BCOO((jnp.tanh(x), matrix.indices), shape=matrix.shape)


_sparse("bcoo_matvec", lambda m, sparse, x: jnp.tanh(m @ x))
_sparse("bcoo_matmul", lambda m, sparse, x: jnp.tanh(m @ jnp.outer(x, x)))
_sparse("bcoo_transposed", lambda m, sparse, x: jnp.tanh(x @ m) @ m.T)
_sparse("bcsr_matvec", lambda m, sparse, x: sparse.BCSR.from_bcoo(m) @ jnp.tanh(x))
_sparse("bcoo_sum", lambda m, sparse, x: (m * x).sum(1).todense() ** 2)
_sparse(
    "bcoo_sparsify", lambda m, sparse, x: sparse.sparsify(lambda m, x: jnp.sin(m @ x) @ x)(m, x)
)
_sparse("bcoo_todense_of_x", lambda m, s, x: jnp.sin(_with_data(m, s, x).todense()), of_x=True)
_sparse("bcoo_of_x_matvec", lambda m, s, x: _with_data(m, s, x) @ jnp.cos(x[:4]), of_x=True)
_sparse(
    "bcoo_sum_duplicates",
    lambda m, s, x: (_with_data(m, s, x) + m).sum_duplicates(nse=7).data ** 2,
    of_x=True,
)
_sparse(
    "bcoo_product_of_two",
    lambda m, s, x: (_with_data(m, s, x) @ m).todense(),
    of_x=True,
)
_sparse("bcoo_fromdense_of_x", lambda m, s, x: s.BCOO.fromdense(_matrix(x), nse=16) @ x)


# --- graphs, symmetries, distributions ----------------------


@program
def jraph_network() -> Any:
    jraph = library("jraph")
    w_e, w_n = draw(5, 10, 3), draw(6, 6, 4)

    def f(x: Any) -> Any:
        graph = jraph.GraphsTuple(
            nodes=x, edges=jnp.ones((5, 2)), globals=jnp.zeros((1, 1)),
            senders=jnp.array([0, 1, 2, 3, 0]), receivers=jnp.array([1, 2, 3, 0, 2]),
            n_node=jnp.array([4]), n_edge=jnp.array([5]),
        )  # fmt: skip
        join = lambda *parts: jnp.concatenate(parts, 1)
        net = jraph.GraphNetwork(
            lambda e, s, r, g: jax.nn.silu(join(e, s, r) @ w_e),
            lambda n, s, r, g: jnp.tanh(join(n[:, :2], s[:, :2], r[:, :2]) @ w_n),
            lambda n, e, g: n.sum(-1, keepdims=True),
        )
        out = net(graph)
        return jnp.concatenate([out.nodes.ravel(), out.edges.ravel(), out.globals.ravel()])

    return short(f, 4, 4, 4)


@program
def jraph_attention() -> Any:
    jraph = library("jraph")
    senders, receivers = jnp.array([0, 1, 2, 3, 0]), jnp.array([1, 2, 3, 0, 2])

    def f(x: Any) -> Any:
        logits = jnp.sum(x[senders] * (x @ W)[receivers], -1)
        weights = jraph.segment_softmax(logits, receivers, num_segments=4)
        return jraph.segment_sum(weights[:, None] * x[senders], receivers, 4)

    return short(f, 4, 4, 4)


@program
def e3nn_layer() -> Any:
    e3nn = library("e3nn_jax")
    linear = e3nn.flax.Linear("4x0e + 2x1o")
    irreps = e3nn.Irreps("2x0e + 2x1o")
    product = lambda x: e3nn.tensor_product(*2 * [e3nn.IrrepsArray(irreps, x)])
    params = linear.init(jax.random.key(0), product(jnp.ones(8)))

    def f(x: Any) -> Any:
        y = linear.apply(params, product(x))
        return jnp.concatenate([e3nn.norm(y).array, e3nn.gate(y).array])

    return short(f, 7, 8)


@program
def e3nn_harmonics() -> Any:
    e3nn = library("e3nn_jax")

    def f(x: Any) -> Any:
        vectors = e3nn.IrrepsArray("1o", x)
        return e3nn.spherical_harmonics("0e + 1o + 2e", vectors, True).array

    return short(f, 8, 3, 3, shift=1.0)


@program
def distrax_densities() -> Any:
    distrax = library("distrax")

    def f(x: Any) -> Any:
        positive = jnp.exp(x)
        return jnp.stack([
            distrax.Normal(x[0], positive[1]).log_prob(x[2]),
            distrax.Gamma(positive[0], positive[1]).log_prob(positive[2]),
            distrax.Beta(positive[0], positive[1]).log_prob(jax.nn.sigmoid(x[2])),
            distrax.Categorical(x).log_prob(1),
            distrax.MultivariateNormalDiag(x, positive).log_prob(jnp.ones(4)),
            distrax.MixtureSameFamily(
                distrax.Categorical(x), distrax.Normal(x, positive)
            ).log_prob(0.3),
            distrax.Normal(x[0], 1.0).kl_divergence(distrax.Normal(0.0, positive[3])),
        ])  # fmt: skip

    return short(f)


@program
def distrax_bijectors() -> Any:
    distrax = library("distrax")

    def f(x: Any) -> Any:
        chain = distrax.Chain([distrax.Tanh(), distrax.ScalarAffine(0.2, 1.5)])
        base = distrax.Normal(jnp.zeros(4), jnp.ones(4))
        spline = distrax.RationalQuadraticSpline(draw(9, 4, 13), -3.0, 3.0)
        y, logdet = spline.forward_and_log_det(x)
        flow = distrax.Transformed(base, chain).log_prob(0.8 * jnp.tanh(x))
        return jnp.concatenate([flow, y, logdet])

    return short(f)


# --- equinox ----------------------


@program
def equinox_error_if() -> Any:
    eqx = library("equinox")
    return short(lambda x: jnp.sin(eqx.error_if(x, jnp.any(x > 100), "too large")) ** 2)


def _equinox_while(kind: str) -> Any:
    eqxi = library("equinox.internal")

    def f(x: Any) -> Any:
        def body(carry: Any) -> Any:
            i, y = carry
            return i + 1, jnp.tanh(W @ y) + x

        cond = lambda carry: carry[0] < 5
        return eqxi.while_loop(cond, body, (jnp.array(0), x), max_steps=8, kind=kind)[1]

    return short(f)


@program
def equinox_while_bounded() -> Any:
    return _equinox_while("bounded")


@program
def equinox_while_checkpointed() -> Any:
    return _equinox_while("checkpointed")


@program
def equinox_while_until() -> Any:
    """How many steps it takes depends on x."""
    eqxi = library("equinox.internal")
    step = lambda y: 0.5 * (y + jnp.tanh(y))
    go_on = lambda y: jnp.sum(y**2) > 0.5
    loop = partial(eqxi.while_loop, go_on, step, max_steps=16, kind="checkpointed")
    return short(lambda x: loop(x) * jnp.sin(x), 3, shift=1.0)


@program
def equinox_network() -> Any:
    eqx = library("equinox")
    net = eqx.nn.MLP(4, 3, 8, 2, key=jax.random.key(0))
    return short(eqx.filter_jit(eqx.filter_checkpoint(net)))


# --- kernels, callbacks, shards ----------------------


@program
def pallas_kernel() -> Any:
    pl = pytest.importorskip("jax.experimental.pallas")

    def kernel(read: Any, write: Any) -> None:
        write[...] = jnp.tanh(read[...])

    call = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((4,), jnp.float32), interpret=True)

    @jax.custom_vjp
    def tanh(x: Any) -> Any:
        return call(x)

    tanh.defvjp(lambda x: (call(x),) * 2, lambda y, g: (g * (1 - y * y),))
    return short(lambda x: tanh(W @ x) * x)


@program
def callback_with_a_rule() -> Any:
    @jax.custom_vjp
    def sine(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.sin, shape, x, vmap_method="sequential")

    sine.defvjp(lambda x: (sine(x), x), lambda x, g: (g * jnp.cos(x),))
    return short(lambda x: sine(W @ x) * x)


@program
def callback_with_a_forward_rule() -> Any:
    @jax.custom_jvp
    def sine(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.sin, shape, x, vmap_method="sequential")

    sine.defjvp(lambda p, t: (sine(*p), jnp.cos(p[0]) * t[0]))
    return short(lambda x: sine(W @ x) * x)


def _mesh() -> Any:
    return jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


@program
def shard_map_with_a_sum() -> Any:
    body = lambda v: lax.psum(jnp.tanh(v * v.sum()).sum(keepdims=True), "d")
    return short(lambda x: jax.shard_map(body, mesh=_mesh(), in_specs=P("d"), out_specs=P())(x))


@program
def shard_map_with_a_loop() -> Any:
    def body(v: Any) -> Any:
        step = lambda y, _: (jnp.tanh(y) + 0.1 * lax.pmean(y, "d"), None)
        return lax.scan(step, v, None, length=3)[0]

    return short(lambda x: jax.shard_map(body, mesh=_mesh(), in_specs=P("d"), out_specs=P("d"))(x))


@program
def pmapped() -> Any:
    return short(lambda x: jax.pmap(lambda v: jnp.sin(v) * v.sum())(x[None])[0])


@program
def vmapped_with_a_sum() -> Any:
    body = lambda v: jnp.tanh(v) / (1 + lax.psum(v**2, "i"))
    return short(lambda x: jax.vmap(body, axis_name="i")(x))


# --- JAX's own corners ----------------------


def _of_x(name: str, f: Callable, shift: float = 0.0) -> None:
    PROGRAMS[name] = lambda: short(f, shift=shift)


_of_x("interp", lambda x: jnp.interp(x, jnp.linspace(-2, 2, 7), jnp.sin(jnp.arange(7.0))))
_of_x("interp_of_values", lambda x: jnp.interp(x[0], jnp.linspace(-2, 2, 4), x))
_of_x("searchsorted", lambda x: x * jnp.cumsum(x**2)[jnp.searchsorted(jnp.array([-0.4, 0.4]), x)])
_of_x("ndtri", lambda x: jsp.special.ndtri(jax.nn.sigmoid(x)))
_of_x("gammainc", lambda x: jsp.special.gammainc(1.5, jnp.exp(x)))
_of_x("gammainc_of_both", lambda x: jsp.special.gammainc(jnp.exp(x), jnp.exp(x[::-1])))
_of_x("betainc", lambda x: jsp.special.betainc(1.5, 2.5, jax.nn.sigmoid(x)))
_of_x("polygamma", lambda x: jsp.special.polygamma(1, 1 + x**2))
_of_x("hyp1f1", lambda x: jsp.special.hyp1f1(1.5, 2.5, x))
_of_x("fft_filter", lambda x: jnp.fft.irfft(jnp.fft.rfft(jnp.tanh(x)) * jnp.array([1, 2j, 0.5])))
_of_x("fft_power", lambda x: jnp.log1p(jnp.abs(jnp.fft.fft(x)) ** 2))
_of_x("fft_convolve", lambda x: jsp.signal.fftconvolve(x, jnp.sin(x)))
_of_x("stft", lambda x: jnp.abs(jsp.signal.stft(jnp.tile(x, 4), nperseg=8)[2]) ** 2)
_of_x("select", lambda x: jnp.select([x > 0.3, x < -0.3], [x**2, jnp.sin(x)], x))
_of_x("select_of_sums", lambda x: jnp.select([x > x.mean(), x < 0], [x**2, x * x.sum()], 0.1))
_of_x("piecewise", lambda x: jnp.piecewise(x, [x < 0, x > 0.5], [lambda v: v**2, jnp.sin, 0.0]))
_of_x("switch", lambda x: lax.switch(
    (x[0] > 0).astype(int) + (x[1] > 0), [jnp.sin, jnp.exp, lambda v: v**2], x))  # fmt: skip
_of_x(
    "switch_on_rank", lambda x: lax.switch(jnp.argmax(x), [jnp.sin, jnp.exp, jnp.cos, jnp.tanh], x)
)
_of_x("dynamic_slice", lambda x: lax.dynamic_slice(x**2, (jnp.argmax(x[:3]),), (2,)))
_of_x("dynamic_update", lambda x: lax.dynamic_update_slice(x, x[:2] ** 2, (jnp.argmin(x[:3]),)))
_of_x("segment_max", lambda x: jax.ops.segment_max(x**2, jnp.array([0, 1, 0, 1]), 2))
_of_x("segment_sum_by_x", lambda x: jax.ops.segment_sum(x**2, (x > 0).astype(int), 2))
_of_x("segment_max_by_x", lambda x: jnp.maximum(
    jax.ops.segment_max(x**2, jnp.digitize(x, jnp.array([0.0])), 2), -9))  # fmt: skip
_of_x("bincount_by_x", lambda x: jnp.bincount(jnp.digitize(x, jnp.array([0.0])), x**2, length=2))
_of_x("sort_pairs", lambda x: lax.sort((x, jnp.sin(x)), num_keys=1)[1])
_of_x("top_k_weighted", lambda x: lax.top_k(x, 2)[0] * x[lax.top_k(x, 2)[1]])
_of_x("median", lambda x: jnp.median(x) * x)
_of_x("argsort", lambda x: x[jnp.argsort(x)] * jnp.arange(4.0))
_of_x(
    "sorting_network", lambda x: jnp.stack([jnp.minimum(x[:2], x[2:]), jnp.maximum(x[:2], x[2:])])
)
_of_x("soft_rank", lambda x: jax.nn.sigmoid((x[:, None] - x) * 5).sum(0) * x)
_of_x("associative_scan", lambda x: lax.associative_scan(lambda a, b: a * b + a, x))
_of_x("associative_scan_pairs", lambda x: lax.associative_scan(
    lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (jnp.tanh(x), x))[1])  # fmt: skip
_of_x("checkpoint_policy", lambda x: jax.checkpoint(
    lambda v: jnp.sin(W @ jnp.tanh(W @ v)),
    policy=jax.checkpoint_policies.dots_saveable)(x))  # fmt: skip
_of_x("checkpoint_names", lambda x: jax.checkpoint(
    lambda v: jnp.sin(jax.ad_checkpoint.checkpoint_name(jnp.tanh(v), "h")) * v,
    policy=jax.checkpoint_policies.save_only_these_names("h"))(x))  # fmt: skip
_of_x("gradient_inside", lambda x: jax.grad(lambda v: jnp.sum(jnp.tanh(W @ v) ** 2))(x))
_of_x("hessian_inside", lambda x: jax.hessian(lambda v: jnp.sum(jnp.tanh(W @ v) ** 2))(x))
_of_x("jvp_inside", lambda x: jax.jvp(jnp.sin, (x,), (x**2,))[1])
_of_x("linearize_inside", lambda x: jax.linearize(jnp.tanh, x)[1](x))
_of_x("fori_loop", lambda x: lax.fori_loop(0, 4, lambda i, y: jnp.tanh(W @ y) + x * i, x))
_of_x("map", lambda x: lax.map(lambda v: jnp.sin(v) * x.sum(), x))
_of_x("einsum", lambda x: jnp.einsum("i,j,ij->j", x, jnp.sin(x), W))
_of_x("polyval_of_both", lambda x: jnp.polyval(x, x[::-1]))
_of_x("map_coordinates", lambda x: jsp.ndimage.map_coordinates(W, [x + 1.5, 1.5 - x], order=1))
_of_x("resize", lambda x: jax.image.resize(jnp.outer(x, jnp.sin(x)), (7, 5), "cubic"))
_of_x("logsumexp_signed", lambda x: jsp.special.logsumexp(x, b=jnp.sin(x), return_sign=True)[0])
_of_x("multigammaln", lambda x: jsp.special.multigammaln(3 + x**2, 2))
_of_x("cumulative_logsumexp", lambda x: lax.cumlogsumexp(x))
_of_x("remainder", lambda x: jnp.remainder(x, 0.7))
_of_x("complex_exponential", lambda x: jnp.abs(jnp.exp(1j * x) + x) ** 2)
_of_x("ldexp", lambda x: jnp.ldexp(x, 2) * x)
_of_x("cross", lambda x: jnp.cross(x[:3], jnp.sin(x[1:])))
_of_x("digamma", lambda x: jsp.special.digamma(2 + x) * jsp.special.gammaln(3 + x))
_of_x("random_reparametrised", lambda x: x * jax.random.normal(jax.random.key(0), (4,)))
_of_x("random_gamma", lambda x: jax.random.gamma(jax.random.key(0), jnp.exp(x) + 1))
_of_x("trapezoid", lambda x: jnp.trapezoid(jnp.sin(x), jnp.cumsum(x**2)))
_of_x("convolve", lambda x: jnp.convolve(x, jnp.tanh(x)))
_of_x("while_over_a_count", lambda x: lax.while_loop(
    lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 1.5), (0, 1.0))[1] * x**2)  # fmt: skip
_of_x("clipped_norm", lambda x: x * jnp.minimum(1, 0.5 / jnp.linalg.norm(x)))
_of_x("precision_matmul", lambda x: jnp.matmul(W, x, precision="highest") ** 2)


@program
def reduce_by_a_computation() -> Any:
    return short(lambda x: lax.reduce(x + 2, jnp.float32(1), lambda a, b: a * b, (0,)))


@program
def custom_jvp_function() -> Any:
    @jax.custom_jvp
    def log1pexp(x: Any) -> Any:
        return jnp.log(1.0 + jnp.exp(x))

    log1pexp.defjvp(lambda p, t: (log1pexp(*p), jax.nn.sigmoid(p[0]) * t[0]))
    return short(lambda x: log1pexp(W @ x) * x)


@program
def straight_through() -> Any:
    return short(lambda x: (x + lax.stop_gradient(jnp.round(4 * x) / 4 - x)) ** 2)


@program
def mixture_of_experts() -> Any:
    experts = draw(11, 3, 4, 4)

    def f(x: Any) -> Any:
        weights = jax.nn.softmax(W[:3] @ x)
        best = lax.top_k(weights, 2)
        return jnp.einsum("k,kij,j->i", best[0], experts[best[1]], x)

    return short(f)


@program
def optax_unrolled() -> Any:
    optax = library("optax")
    solver = optax.adam(0.1)

    def f(x: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            y, opt = state
            updates, opt = solver.update(jax.grad(lambda y: jnp.sum(jnp.cosh(y) - x * y))(y), opt)
            return (optax.apply_updates(y, updates), opt), None

        start = jnp.zeros(4)
        return lax.scan(step, (start, solver.init(start)), None, length=4)[0][0]

    return short(f)


@program
def optax_losses() -> Any:
    optax = library("optax")

    def f(x: Any) -> Any:
        return jnp.stack([
            optax.ctc_loss(jnp.outer(x, jnp.sin(x))[None], jnp.zeros((1, 4)),
                           jnp.array([[1, 2]]), jnp.zeros((1, 2)))[0],
            optax.huber_loss(x, 0.1).sum(), optax.cosine_similarity(x, jnp.arange(4.0)),
        ])  # fmt: skip

    return short(f)
