"""Redis: the keys, the scripts that change them, and typed wrappers around the scripts."""
