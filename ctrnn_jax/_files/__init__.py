"""Models, arrays and signals, read and written."""
