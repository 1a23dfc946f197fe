"""`python -m plexus_registry` is `trio-registry`."""

from plexus_registry.cli import main

if __name__ == "__main__":
    main(prog_name="trio-registry")
