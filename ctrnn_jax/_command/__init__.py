"""The command `ctrnn`, one file a subcommand."""
