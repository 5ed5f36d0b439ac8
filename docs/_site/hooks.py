"""What mkdocs calls while it builds: the pages of reference enter the site without lying in the repository."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import reference


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    return files
