"""How the site is built: python -m sphinx -W -b html docs docs/_build/html."""

import os
import pathlib
import sys
from importlib import metadata

_HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(_HERE / "_ext"))

# What the kernels that run the tutorials inherit.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MATPLOTLIBRC"] = str(_HERE / "_static" / "matplotlibrc")
os.environ["IPYTHONDIR"] = str(_HERE / "_ipython")
os.environ["COLUMNS"] = "80"
# Compilers that are fast themselves: almost all of the time goes there.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=2")

project = "initjax"
author = "the initjax authors"
version = release = metadata.version("initjax")

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "docstrings",  # of _ext, as all below
  "generated_pages",
  "mathml",
  "public_names",
]
exclude_patterns = ["_build", "_ext", "_ipython", "examples", "jupyter_execute"]
default_role = "py:obj"  # `name` links to the name if there is an entry
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 72
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # a function is no expression otherwise

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence",
                          "deflist", "dollarmath"]  # fmt: skip
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds, of a cell, on a busy machine
nb_merge_streams = True

html_theme = "sphinx_book_theme"
html_title = "initjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"home_page_in_toc": True, "show_toc_level": 2,
                      "use_download_button": False}  # fmt: skip
