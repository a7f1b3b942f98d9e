"""The rules, pure: requests, states, answers, decisions and events. No clock, no I/O, no driver."""
