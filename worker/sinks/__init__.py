"""Where news of imports goes besides the event stream."""
