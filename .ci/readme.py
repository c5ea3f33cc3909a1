"""Runs the ```python blocks of a Markdown file, top to bottom, as one program.

A block with `>>>` prompts is checked as a doctest, any other is executed; other fences are left
alone.
"""

import doctest
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

document = Path(sys.argv[1]).resolve()
text = document.read_text(encoding="utf-8")
warnings.simplefilter("error")
os.environ.setdefault("MPLBACKEND", "agg")
os.chdir(tempfile.mkdtemp())  # what a block writes is not kept

namespace: dict = {"__name__": "__main__"}
runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
for block in blocks:
    line = text[: block.start()].count("\n") + 1
    if ">>> " in block[1]:
        test = doctest.DocTestParser().get_doctest(block[1], {}, document.name, document.name, line)
        test.globs = namespace
        runner.run(test, clear_globs=False)
    else:
        # Blank lines in front keep the line numbers of a traceback true.
        exec(compile("\n" * line + block[1], document, "exec"), namespace)
print(f"{document.name}: {len(blocks)} blocks ran, {runner.failures} examples failed")
sys.exit(runner.failures > 0)
