"""`python -m ncjax.runs` lists the runs below a folder; the command is `ncjax.commands.runs`."""

from ncjax.commands.runs import main

if __name__ == "__main__":
    main()
