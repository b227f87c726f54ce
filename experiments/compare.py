"""Compares finished runs that differ in their settings; the command is `ncjax.commands.compare`."""

from ncjax.commands.compare import main

if __name__ == "__main__":
    main()
