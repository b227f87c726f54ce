"""Writes one HTML page about runs; the command is `ncjax.commands.report`."""

from ncjax.commands.report import main

if __name__ == "__main__":
    main()
