"""Pretrains a classifier; the command is `ncjax.commands.pretrain`."""

from ncjax.commands.pretrain import main

if __name__ == "__main__":
    main()
