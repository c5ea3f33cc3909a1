"""Hooks of MkDocs: what the site shows of the repository beside docs/, and links from names in code.

Notebooks, examples, the benchmarks' README, CHANGELOG.md and CONTRIBUTING.md become pages without
a second copy of them; tables and pictures of penalties and losses are made from the classes. Code that
names something public, such as `l1jax.fit`, becomes a link to its entry in the API reference; the strict
build fails where there is no such entry.
"""

import ast
import posixpath
import re
import xml.etree.ElementTree as etree
from pathlib import Path

import family_pages
from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PAGES = {
    "index.md": "README.md",
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}


def on_config(config):
    """Adds the extension that links names in code, on pages and in docstrings."""
    config.markdown_extensions.append(LinkedNames())
    return config


def on_files(files, config):
    """Adds the pages and pictures that lie elsewhere in the repository, and the pictures of classes."""
    made = dict(shared_pages()) | family_pages.pictures()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        made |= notebook_page(notebook)
    for example in sorted((ROOT / "examples").glob("*.py")):
        made |= example_page(example)
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes links of pages in docs/, which hold in the repository, hold on the site; fills in tables."""
    del config, files
    uri = page.file.src_uri
    if page.file.generated_by:
        return markdown
    if uri in family_pages.FAMILIES:
        page.meta["hide"] = ["toc"]  # a wide table takes its place
    markdown = family_pages.filled(markdown, uri)
    return relocate(markdown, f"docs/{posixpath.dirname(uri)}", posixpath.dirname(uri))


def shared_pages():
    """Pages that are a Markdown file of the repository."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        yield page, relocate(text, posixpath.dirname(source), "")


def relocate(text, folder, site_folder):
    """Turns links from a folder of the repository into links from a folder of the site."""

    def move(match):
        target, anchor = match[1], match[2] or ""
        path = site_path(posixpath.normpath(posixpath.join(folder, target)))
        return f"]({posixpath.relpath(path, site_folder or '.')}{anchor})"

    return re.sub(r"\]\((?!https?:)([^)#\s]+)(#[^)]*)?\)", move, text)


def site_path(path):
    """Where the site has a file of the repository."""
    moved = {source: page for page, source in PAGES.items()}
    if path in moved:
        return moved[path]
    if path.startswith(("notebooks/", "examples/")):
        file = Path(path)
        return f"gallery/{file.name if file.suffix == '.png' else file.stem + '.md'}"
    return path.removeprefix("docs/")


def notebook_page(notebook):
    """The notebook as Markdown, with the pictures that it holds; nothing is executed."""
    folder = notebook.stem
    text, resources = MarkdownExporter().from_filename(
        notebook, resources={"output_files_dir": folder}
    )
    text = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1], display="block"), text, flags=re.DOTALL)
    text = re.sub(r"\$([^$\n]+)\$", lambda m: convert(m[1]), text)
    pictures = {f"gallery/{name}": data for name, data in resources["outputs"].items()}
    cover = {f"gallery/{folder}.png": next(iter(pictures.values()))}
    return {f"gallery/{folder}.md": text} | pictures | cover


def example_page(example):
    """The docstring of a script, the pictures of it that the repository holds, and its code."""
    code = example.read_text(encoding="utf-8")
    title, _, rest = ast.get_docstring(ast.parse(code)).partition("\n")
    usage = re.sub(r"^(python .*)$", r"`\1`", rest, flags=re.MULTILINE)
    parts, made = [f"# {title.rstrip('.')}", usage], {}
    for picture in sorted(example.parent.glob(f"{example.stem}*.png")):
        parts.append(f"![{title}]({picture.name})")
        made[f"gallery/{picture.name}"] = picture.read_bytes()
    body = code.split('"""', 2)[2].strip()
    parts.append(f"```python\n{body}\n```")
    return made | {f"gallery/{example.stem}.md": "\n\n".join(parts)}


class LinkNames(Treeprocessor):
    """Wraps inline code that names a public object in a reference to its entry."""

    NAME = re.compile(r"l1jax(\.[A-Za-z]\w*)+")

    def run(self, root):
        for parent in list(root.iter()):
            if parent.tag in ("a", "pre", "autoref", "h1", "h2", "h3", "h4"):
                continue
            for place, child in enumerate(list(parent)):
                name = child.tag == "code" and self.NAME.match(child.text or "")
                if name and name[0] not in MODULES:
                    link = etree.Element("autoref", identifier=ENTRIES.get(name[0], name[0]))
                    link.tail, child.tail = child.tail, None
                    parent.remove(child)
                    link.append(child)
                    parent.insert(place, link)


# Modules whose names have entries, but which have none themselves.
MODULES = {
    f"l1jax.{name}" for name in ("prox", "losses", "training", "sklearn", "plot", "directions")
}

# A module of the package has the same name: the entry is that of the function.
ENTRIES = {"l1jax.penalties": "l1jax.training.penalties"}


class LinkedNames(Extension):
    """The extension of Markdown that runs `LinkNames`."""

    def extendMarkdown(self, md):
        md.treeprocessors.register(LinkNames(md), "l1jax-names", 0)
