"""The relay: sends events on to the systems that an operator configured as sinks."""
