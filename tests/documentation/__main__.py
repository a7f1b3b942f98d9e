"""Writes what the code and the examples define in the documentation: `make docs`."""

from tests.documentation.examples import write_examples
from tests.documentation.pages import write_pages

write_pages()
write_examples()
