"""The `dsp` command: `main` is the door, every other module here is one subcommand."""
