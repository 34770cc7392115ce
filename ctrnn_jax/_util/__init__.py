"""What everything rests on: checks of arguments, types of arrays."""
