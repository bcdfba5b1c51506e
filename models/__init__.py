"""Reference networks: how they are built and trained (with torch), and the trained one that ships (without)."""
