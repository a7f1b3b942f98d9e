"""The use cases: admit, advance, finish. They use the layers below only through ports."""
