"""Write the table of model families into the README: ``python scripts/write_models.py``."""

from __future__ import annotations

from pathlib import Path

from sections import write_section

from m2ib_lightning.models.catalogue import models_markdown


def main() -> None:
    """Replace the README's table by that of the registry."""
    write_section(Path(__file__).parents[1] / "README.md", "models", models_markdown())


if __name__ == "__main__":
    main()
