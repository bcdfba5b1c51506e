"""Reference networks: how they are built and trained (with torch), and the trained ones that ship (without)."""
