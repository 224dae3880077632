"""Eight CPU devices for every test, and compilation that does not dawdle."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # workers fill the cores already
# LLVM's third level takes ten times as long as its second for what draws random
# numbers for many seeds at once, and runs no faster.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=2",
  ]
)
