"""Where workers announce imports besides the event stream."""
