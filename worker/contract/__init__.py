"""The contract with other programs, as documents: what they may send, and what they receive."""
