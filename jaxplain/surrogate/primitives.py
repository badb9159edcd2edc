"""Every public lax primitive, in exactly one group.

The groups say what a primitive *is* (linear, a unary function, a maximum ...), not what a method
makes of it; tables are built from them.  A primitive that a new JAX adds belongs to none, and the
test that counts them fails until it is placed here.
"""

from jaxplain.surrogate import compat

GROUPS: dict[str, tuple[str, ...]] = {
    # Linear, jointly, in all active floating operands; other operands are indices or sizes.
    "linear": tuple(
        """add_any all_gather all_to_all broadcast_in_dim concatenate copy cumsum
        device_put fft gather dynamic_slice dynamic_update_slice imag real conj complex name
        optimization_barrier pad ppermute psum ragged_all_to_all reduce_sum reduce_window_sum
        reshape rev scatter-add scatter-sub scatter select_and_gather_add select_and_scatter_add
        sharding_constraint slice split squeeze stack tile transpose unstack all_gather_reduced
        pvary reduce_scatter""".split()
    ),
    # Elementwise, any number of operands: a region of these with one root is a scalar function.
    "elementwise": tuple(
        """abs acos acosh add asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt clamp
        convert_element_type cos cosh digamma div erf erf_inv erfc exp exp2 expm1 igamma
        igammac integer_pow lgamma log log1p log2 logistic max min mul neg
        one_minus_square polygamma polynomial pow reduce_precision regularized_incomplete_beta
        rsqrt select_n sin sinh sqrt square sub tan tanh nextafter stop_gradient
        rem floor ceil round sign
        and or xor not eq ne lt le gt ge eq_to le_to lt_to is_finite
        population_count clz shift_left shift_right_arithmetic shift_right_logical
        mulhi random_gamma""".split()
    ),
    "bilinear": ("dot_general", "conv_general_dilated", "ragged_dot_general"),
    "maximum": tuple(
        """reduce_max reduce_min reduce_window_max reduce_window_min cummax cummin
        scatter-max scatter-min""".split()
    ),
    # Differentiable and none of the above: the local path integral.
    "curved": tuple(
        """cholesky cumlogsumexp cumprod eigh lu qr
        reduce reduce_prod scatter-mul sort svd top_k triangular_solve
        tridiagonal_solve eig approx_top_k""".split()
    ),
    "linear_solve": ("custom_linear_solve",),
    # Of booleans and integers, or to them: carried along, but nothing flows back.
    "discrete": ("reduce_and", "reduce_or", "reduce_xor"),
    "control_flow": ("scan", "cond", "while", "remat2"),
    # Calls are opened before any table sees them.
    "calls": ("jit", "custom_jvp_call", "custom_vjp_call", "call", "closed_call", "eval_jaxpr"),
    # Without a derivative, or not meant for programs that are explained.
    "opaque": tuple(
        """argmax argmin hessenberg householder_product schur tridiagonal igamma_grad_a zeta
        pmax pmin bitcast_convert_type reduce_window select_and_scatter
        random_bits random_fold_in random_seed random_split rng_bit_generator rng_uniform
        threefry2x32 custom_lin stage""".split()
    ),
    # Never with an active operand: they make values, or order effects.
    "sources": tuple("""after_all axis_index create_token dce_sink empty2 iota get swap""".split()),
}


def group(name: str) -> tuple:
    """The primitive objects of a group, in this JAX version."""
    return compat.resolve(GROUPS[name])
