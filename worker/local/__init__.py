"""What `run` and `demo` start on this machine: a store, workers, and a simulated API."""
