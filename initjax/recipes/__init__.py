"""Rules for the leaves of any model, their audit, and published recipes."""

from initjax.recipes._audit import Audit, AuditRow, audit
from initjax.recipes._mimetic import mimetic_attention, mimetic_kernels
from initjax.recipes._nfnet import nfnet, standardized_kernel
from initjax.recipes._recipe import Recipe
from initjax.recipes._residual_recipes import (
  fixup,
  rezero,
  skipinit,
  zero_last_scale,
)
from initjax.recipes._rules import Rules, RulesPlan, rules
from initjax.recipes._transformer_recipes import (
  deepnorm,
  deepnorm_constants,
  gpt2,
  tfixup,
)
from initjax.recipes._whole_recipes import (
  identity,
  torch_defaults,
  zero_initialization,
)

__all__ = [
  "Audit",
  "AuditRow",
  "Recipe",
  "Rules",
  "RulesPlan",
  "audit",
  "deepnorm",
  "deepnorm_constants",
  "fixup",
  "gpt2",
  "identity",
  "mimetic_attention",
  "mimetic_kernels",
  "nfnet",
  "rezero",
  "rules",
  "skipinit",
  "standardized_kernel",
  "tfixup",
  "torch_defaults",
  "zero_initialization",
  "zero_last_scale",
]
