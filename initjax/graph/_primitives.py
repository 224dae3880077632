"""All sets of primitives that the library knows, by name.

No other module lists names, so what counts as the same step in one reading of a
jaxpr does so in all.
"""


def _names(text: str) -> frozenset[str]:
  return frozenset(text.split())


# Calls

JITS = _names("jit pjit")
CALLS = JITS | _names("closed_call composite core_call custom_vmap_call")
"""Without a derivative rule."""
RULES = _names("custom_jvp_call custom_vjp_call")
REMAT = _names("remat remat2 checkpoint")
INLINED = CALLS | RULES | REMAT
"""What a reading enters that takes no derivative: no rule is lost."""

# Numbers

LINEAR = _names("dot_general conv_general_dilated ragged_dot_general")
SUMS = _names("add add_any sub")
ADDING = _names("cumsum fft reduce_sum scatter-add")
"""What adds up entries of its last operand."""
PSUMS = _names("psum psum2 psum_invariant")
"""Over devices, or over an axis of a vmap."""
AFFINE = _names("add sub mul div")
SCALES = _names("mul div neg convert_element_type")
"""What multiplies by a constant, if one operand is all that is no number."""
REDUCTIONS = _names("reduce_max reduce_min reduce_prod reduce_sum")
ELEMENTWISE = _names("""
abs acos acosh asin asinh atan atanh cbrt ceil conj cos cosh digamma erf erf_inv
erfc exp exp2 expm1 floor imag integer_pow is_finite lgamma log log1p logistic
neg not population_count real round rsqrt sign sin sinh sqrt square tan tanh
add add_any and atan2 clamp complex div eq ge gt le lt max min mul ne nextafter
or pow rem select_n sub xor
""")

KEEPS_ZERO = _names("""
abs and asin asinh atan cbrt div erf expm1 gt imag integer_pow log1p mul ne neg
real sign sin sinh sqrt square tan tanh
""")
"""What is 0 where the first operand is, if numbers beside it are 0."""
UNIONS = SUMS | _names("max min or xor")
"""What is 0 where both operands are."""

# Entries moved, and left as they are

STAYS = _names("""
copy copy_p optimization_barrier pvary reduce_precision reshard
sharding_constraint
""")
"""Every entry stays where and what it is."""
RESHAPES = _names("broadcast_in_dim expand_dims reshape squeeze")
MOVES = RESHAPES | _names("rev slice split transpose")
IDENTITIES = STAYS | MOVES
"""Functions of one array that are the identity on every entry they keep."""
LAYOUT = IDENTITIES | {"convert_element_type"}
INDEXED = _names("dynamic_slice gather")
"""Parts at indices that may be data."""
CHOSEN = INDEXED | _names("cond select_n")
"""One of several arrays, or parts of one."""
PARTS = INDEXED | _names("slice split unstack")
CHOICES = _names("slice split rev")
"""Of entries, by an equation's parameters alone."""
JOINS = _names("concatenate stack")
STEPS = LAYOUT | PARTS | SCALES | {"stop_gradient"}
"""What leaves entries of one array what they are, but for constant factors."""
PLACES = _names("dynamic_update_slice pad scatter scatter-add scatter-sub")
"""What puts entries among others, or adds them there."""

# Random numbers

RANDOM = _names("random_bits threefry2x32 rng_bit_generator")
KEYS = _names("""
random_clone random_fold_in random_split random_unwrap random_wrap
broadcast_in_dim concatenate copy copy_p dynamic_slice gather reshape slice
squeeze transpose
""")
"""From keys to keys."""

# What may be computed while reading: no effect, no callback

PURE = ELEMENTWISE | LAYOUT
PURE_ARRAYS = (
  PURE
  | PARTS
  | JOINS
  | RANDOM
  | _names("""
argmax argmin clz cumsum cumprod dot_general dynamic_update_slice iota pad
random_clone random_fold_in random_gamma random_seed random_split random_unwrap
random_wrap reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
scatter shift_left shift_right_arithmetic shift_right_logical stop_gradient tile
""")
)
BLOCKWISE = (ELEMENTWISE - _names("complex conj imag real")) | _names("""
bitcast_convert_type convert_element_type copy reduce_precision shift_left
shift_right_arithmetic shift_right_logical stop_gradient
""")
"""Of real numbers, the same bits for any part of an array."""
