"""Whole-model initialization: fast, by true fans, calibrated, by recipe."""

from initjax.schemes._audit import Audit, AuditRow, audit
from initjax.schemes._auto_init import auto_init
from initjax.schemes._calibrate import calibrate
from initjax.schemes._calibration import Calibration
from initjax.schemes._init_variables import init_variables
from initjax.schemes._mimetic import mimetic_attention, mimetic_kernels
from initjax.schemes._nf_net import nf_net, standardized_kernel
from initjax.schemes._plan import VariancePlan, VarianceRow
from initjax.schemes._recipe import Recipe
from initjax.schemes._residual_recipes import (
  fixup,
  re_zero,
  skip_init,
  zero_last_scale,
)
from initjax.schemes._rules import Plan, Rules, rules
from initjax.schemes._transformer_recipes import (
  deep_norm,
  deep_norm_constants,
  gpt2,
  t_fixup,
)
from initjax.schemes._whole_recipes import (
  identity,
  torch_defaults,
  zer_o,
)

__all__ = [
  "Audit",
  "AuditRow",
  "Calibration",
  "Plan",
  "Recipe",
  "Rules",
  "VariancePlan",
  "VarianceRow",
  "audit",
  "auto_init",
  "calibrate",
  "deep_norm",
  "deep_norm_constants",
  "fixup",
  "gpt2",
  "identity",
  "init_variables",
  "mimetic_attention",
  "mimetic_kernels",
  "nf_net",
  "re_zero",
  "rules",
  "skip_init",
  "standardized_kernel",
  "t_fixup",
  "torch_defaults",
  "zer_o",
  "zero_last_scale",
]
