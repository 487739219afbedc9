"""The documentation site: Sphinx with MyST-NB. `make docs` builds it, strictly and without the network."""

import ast
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole
from sphinx.writers.html5 import HTML5Translator

import jaxsel
import jaxsel.base
import jaxsel.integrations.arviz
import jaxsel.integrations.edge
import jaxsel.integrations.embeddings
import jaxsel.integrations.history
import jaxsel.integrations.prime_rl
import jaxsel.integrations.ray
import jaxsel.integrations.slime
import jaxsel.integrations.tinker
import jaxsel.integrations.trainer_logs
import jaxsel.integrations.trinity
import jaxsel.integrations.trl
import jaxsel.integrations.tunix
import jaxsel.integrations.verl
import jaxsel.metrics
import jaxsel.plotting
import jaxsel.reference_models
import jaxsel.replay
import jaxsel.simulate
from jaxsel.report.pieces import bundle

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MODULES = (
    *("jaxsel", "jaxsel.metrics", "jaxsel.plotting", "jaxsel.reference_models", "jaxsel.replay", "jaxsel.simulate"),
    *(f"jaxsel.integrations.{name}" for name in ("arviz", "edge", "embeddings", "history", "trainer_logs")),
    *(
        f"jaxsel.integrations.{name}"
        for name in ("prime_rl", "ray", "slime", "tinker", "trinity", "trl", "tunix", "verl")
    ),
)

project = "jaxsel"
release = jaxsel.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "jaxsel"
html_theme_options = {"home_page_in_toc": True, "navbar_persistent": [], "footer_content_items": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"  # browsers show MathML without help; MathJax would come from the network

nb_execution_mode = "off"  # the notebooks keep the outputs of `make notebooks`
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # the signature shows the types of the fields
python_maximum_signature_line_length = 90
default_role = "public"
nitpicky = True
nitpick_ignore_regex = [
    # Annotations also name aliases and types of other projects; links to these would need inventories from the network.
    ("py:class", r"(?!jaxsel\.).*"),
]


def public_names() -> dict[str, str]:
    """Map every full name of a public object to its documented name.

    A full name begins with a public module that has the object, or with the module that defines it.
    """
    names = {}
    for module in MODULES:
        names[module] = module
        for name, value in vars(sys.modules[module]).items():
            owner = getattr(value, "__module__", "")
            is_integration = module.startswith("jaxsel.integrations.")  # the other modules re-export objects
            if owner == module or (owner.startswith("jaxsel") and not is_integration):
                names[f"{module}.{name}"] = names[f"{owner}.{name}"] = f"{module}.{name}"
    # The page of `jaxsel.replay` documents these: a function and a module cannot share the name `jaxsel.replay`.
    names |= {f"jaxsel.{name}": f"jaxsel.replay.{name}" for name in ("History", "make_history")}
    # The page of `jaxsel` documents the protocols of the functions.
    protocols = (name for name, value in vars(jaxsel.base).items() if getattr(value, "_is_protocol", False))
    return names | {
        f"{place}.{name}": f"jaxsel.base.{name}" for name in protocols for place in ("jaxsel", "jaxsel.base")
    }


NAMES = public_names()


def found(name: str, module: str | None, class_name: str | None = None) -> str | None:
    """Look up `name` as code in a module or class does; return its documented name, or None if it is not public."""
    owner = getattr(sys.modules.get(module or ""), class_name or "", object)
    if any(name in vars(base) for base in owner.__mro__ if base not in (tuple, object)):
        return f"{module}.{class_name}.{name}"
    candidates = (f"{module}.{name}", f"jaxsel.{name}", name)
    return next((NAMES[candidate] for candidate in candidates if candidate in NAMES), None)


class Public(SphinxRole):
    """Text in single backticks: shown as code, with a link if it names a documented object."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the node: code, inside a link if there is a target."""
        code = nodes.literal(self.text, self.text)
        context = self.env.ref_context
        target = found(self.text.partition("(")[0], context.get("py:module"), context.get("py:class"))
        if target is None:
            return [code], []
        return [pending_xref("", code, refdomain="py", reftype="obj", reftarget=target, refdoc=self.env.docname)], []


def documented(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Link a name in an annotation to the place where the object is documented."""
    target = found(node.get("reftarget", ""), node.get("py:module"))
    if node.get("refdomain") != "py" or target is None or target == node["reftarget"]:
        return None
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)


def as_written(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Show annotations as the source has them: `Float[Array, "m"]` and `ArrayLike`, not the types behind them."""
    if what not in ("class", "function", "method") or not getattr(obj, "__module__", "").startswith("jaxsel"):
        return None
    if inspect.isclass(obj) and not issubclass(obj, tuple):
        obj = obj.__init__
        if getattr(obj, "__module__", "").partition(".")[0] != "jaxsel":  # `__init__` of a protocol or of `object`
            return "", None
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(obj)))).body[0]
    if isinstance(tree, ast.ClassDef):
        fields = [ast.unparse(node) for node in tree.body if isinstance(node, ast.AnnAssign)]
        return shapes(f"({', '.join(fields)})"), None
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    if tree.args.args and tree.args.args[0].arg in ("self", "cls"):
        del tree.args.args[0]
    return shapes(f"({ast.unparse(tree.args)})"), shapes(ast.unparse(tree.returns)) if tree.returns else None


def shapes(signature: str) -> str:
    """Drop the space at the start of a jaxtyping shape of one axis: `" m"` becomes `"m"`."""
    return re.sub(r"(\[[\w.| ]+, ') ", r"\1", signature)


def readable(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep the line breaks of indented formulas and code, and show a bar (`|x|`) as a bar, not as a substitution."""
    lines[:] = marked(lines)


def marked(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring as reStructuredText."""
    before, is_literal = "", False
    for line in lines:
        starts = line.startswith("    ") and not before and not is_literal
        is_literal = (is_literal and (not line or line.startswith("    "))) or starts
        if starts:
            yield from ("::", "")
        is_code = is_literal or line.lstrip().startswith((">>>", "..."))
        yield (
            line
            if is_code
            else re.sub(r"`[^`]*`|\|", lambda match: match[0].replace("|", r"\|", match[0] == "|"), line)
        )
        before = line


def without_tuple_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples, documented as "Alias for field number 0"; the class docstring describes them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def visit_inline_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a sentence as MathML."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_displayed_math(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a line of its own as MathML."""
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def links_of_included(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """Rewrite the relative links of an included Markdown file: to pages of the site, or else to copies of the files."""
    pages = {ROOT / "README.md": "index", ROOT / "experiments/README.md": "experiments"}
    pages |= {ROOT / "experiments/results/README.md": "results"}
    pages |= {file: f"notebooks/{file.stem}" for file in (ROOT / "notebooks").glob("*.ipynb")}

    def moved(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        target, hash_sign, heading = target.partition("#")
        file = (DOCS / path.parent / target).resolve()
        page = pages.get(file, str(file.relative_to(DOCS).with_suffix("")) if DOCS in file.parents else None)
        if page and heading:
            return f"[{text}]({os.path.relpath(DOCS / page, (DOCS / parent).parent)}.md{hash_sign}{heading})"
        if page:
            return f"{{doc}}`{text} </{page}>`"
        if file.is_dir():
            return text
        return f"{image}[{text}]({'' if image else 'path:'}{os.path.relpath(file, (DOCS / parent).parent)})"

    content[0] = re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", moved, content[0])


VEGA_LITE = "application/vnd.vegalite.v6+json"


def charts_of_notebook(app: Sphinx, docname: str, content: list[str]) -> None:
    """Keep the interactive charts of a notebook for `charts.js`; without this, MyST-NB would show their pictures."""
    if not docname.startswith("notebooks/"):
        return
    notebook = json.loads(content[0])
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        if VEGA_LITE in output.get("data", {}):
            spec = json.dumps(output["data"][VEGA_LITE]).replace("</", "<\\/")
            div = f'<div class="vega-chart"><script type="application/json">{spec}</script></div>'
            output["data"] = {"text/html": div, "text/plain": ""}
    content[0] = json.dumps(notebook)


def write_vega(app: Sphinx) -> None:
    """Write the scripts that draw the charts, so that the site needs no network."""
    if app.builder.format == "html":
        static = Path(app.outdir, "_static")
        static.mkdir(parents=True, exist_ok=True)
        # inside of a function, because the theme's scripts declare some of the same names
        (static / "vega.js").write_text(f"(() => {{\n{bundle()}\n}})();\n")


def scripts_of_charts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.Node) -> None:
    """Load these scripts on the pages with charts."""
    if 'class="vega-chart"' in context.get("body", ""):
        app.add_js_file("vega.js", loading_method="defer")
        app.add_js_file("charts.js", loading_method="defer")


def setup(app: Sphinx) -> None:
    """Register the role, the renderer of formulas and the handlers."""
    app.add_role("public", Public())
    app.add_html_math_renderer("mathml", (visit_inline_math, None), (visit_displayed_math, None))
    app.connect("autodoc-process-docstring", readable, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", without_tuple_fields)
    app.connect("missing-reference", documented)
    app.connect("include-read", links_of_included)
    app.connect("source-read", charts_of_notebook)
    app.connect("builder-inited", write_vega)
    app.connect("html-page-context", scripts_of_charts)
