"""Runs the ```python blocks of Markdown files: each file, top to bottom, as one program.

A block with `>>>` prompts is checked as a doctest, any other is executed; other fences are left
alone. With `--first`, only the first block of each file.
"""

import argparse
import doctest
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def main():
    """Runs the files of the command line; exits with 1 where an example failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--first", action="store_true", help="only the first block of each file")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    # Processes share what they compile, and jax writes an entry in place: one read too early is compiled.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    os.environ.setdefault("MPLBACKEND", "agg")
    files = [file.resolve() for file in arguments.files]
    sys.exit(sum(run(file, arguments.first) for file in files) > 0)


def run(document, only_first):
    """Runs one file in a folder of its own, which is not kept; returns how many examples failed."""
    text = document.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))[: 1 if only_first else None]
    namespace: dict = {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for block in blocks:
            line = text[: block.start()].count("\n") + 1
            if ">>> " in block[1]:
                parse = doctest.DocTestParser().get_doctest
                test = parse(block[1], {}, document.name, str(document), line)
                test.globs = namespace
                runner.run(test, clear_globs=False)
            else:
                # Blank lines in front keep the line numbers of a traceback true.
                exec(compile("\n" * line + block[1], document, "exec"), namespace)
        os.chdir(document.parent)
    close_figures()
    seconds = time.perf_counter() - start
    print(
        f"{document.name}: {len(blocks)} blocks ran in {seconds:.0f} s, "
        f"{runner.failures} examples failed"
    )
    return runner.failures


def close_figures():
    """Closes what a file has drawn, so that many files do not keep many figures."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


if __name__ == "__main__":
    main()
