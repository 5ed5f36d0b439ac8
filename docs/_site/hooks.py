"""What mkdocs calls while it builds: pages of reference, made from the code, and what the navigation does not name."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import reference


def on_config(config: Any) -> Any:
    """Ends the navigation with the decisions and with every page that stands nowhere else."""
    docs = Path(config.docs_dir)
    named = str(config.nav)
    others = [p.relative_to(docs).as_posix() for p in sorted(docs.rglob("*.md"))]
    left = [page for page in others if f"'{page}'" not in named and not page.startswith("_site/")]
    decisions = [page for page in left if page.startswith("decisions/")]
    project = config.nav[-1]["Project"]
    project += [page for page in left if page not in decisions]
    project.append({"Decisions": decisions})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    return files
