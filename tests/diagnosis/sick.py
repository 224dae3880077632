"""What is asked of the reports on sick models."""

import jax
import jax.numpy as jnp
from small_models import X, kernels, stack

from initjax import initializers
from initjax.diagnosis import diagnose


def diagnosed(activation, sigma_w2, depth, x=X):
  return diagnose(stack(activation), kernels(sigma_w2, depth), x)


def kinds(report):
  return {verdict.kind: verdict.severity for verdict in report.verdicts}


def verdict(report, kind):
  (found,) = (v for v in report.verdicts if v.kind == kind)
  return found


def pasted(fix):
  """The initializer of a fix, by running its line."""
  line = fix.split("\n")[0].removeprefix("kernel_init=initjax.")
  return eval(line, {"initializers": initializers, "jax": jax, "jnp": jnp})
