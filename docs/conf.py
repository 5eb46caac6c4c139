"""Sphinx: `sphinx-build -W docs build/docs` needs the extra `docs`, and opens no connection."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

import modfill  # noqa: E402

project = "modfill"
author = "the modfill authors"
version = release = modfill.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxarg.ext", "sidecar_schema"]

html_theme = "furo"
html_title = f"modfill {release}"
html_static_path = ["static"]
html_css_files = ["modfill.css"]
html_copy_source = html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page of results begins with a table
nb_execution_mode = "off"  # the slow tests run the notebooks

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
