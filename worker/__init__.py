"""The worker and the command line: see README.md for what lies where."""

from amplify_import import what_is_in_the_way

# `celery -A worker` finds us behind whatever the current directory has of the same names.
if said := what_is_in_the_way():
    raise SystemExit(f"Error: {said}")
