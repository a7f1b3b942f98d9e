"""The worker and the command line; CONTRIBUTING.md lists the packages."""

from amplify_import import what_is_in_the_way

# `celery -A worker` may find a package of the same name in the current directory first.
if message := what_is_in_the_way():
    raise SystemExit(f"Error: {message}")
