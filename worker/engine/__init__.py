"""The use cases: admit, advance, finish. They see the layers below through ports alone."""
