"""Evaluates a run, an encoder or features; the command is `ncjax.commands.evaluate`."""

from ncjax.commands.evaluate import main

if __name__ == "__main__":
    main()
