"""Writes the reference pages that the code defines: `make docs`."""

from tests.documentation.pages import write_pages

write_pages()
