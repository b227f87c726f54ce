"""Which column or feature of a table holds the images and which the labels, and what classes are called."""

from collections.abc import Sequence

from ncjax.errors import InputError
from ncjax.progress import remark


def pick(
    where: str,
    option: str,
    asked: str | None,
    every: Sequence[str],
    fitting: Sequence[str],
    *,
    wanted: str,
    usual: Sequence[str],
) -> str:
    """The column that was asked for, or the only one that fits, or the one of a usual name among those that fit.

    Args:
      where: the file, for messages.
      option: the setting that names the column.
      asked: its value.
      every: all columns.
      fitting: those of the right type.
      wanted: that type in words.
      usual: names that are preferred.

    Raises:
      InputError: there is none, or several, or the one asked for is of another type.
    """
    if asked is not None and asked not in every:
        raise InputError(f"{where} has no column {asked}; its columns are {', '.join(every)}")
    if asked is not None and asked not in fitting:
        raise InputError(f"{where}: column {asked} is not of {wanted}; {option} must name one that is")
    if asked is not None:
        return asked
    chosen = list(fitting) if len(fitting) == 1 else [name for name in usual if name in fitting][:1]
    if not chosen:
        found = f"several columns of {wanted}: {', '.join(fitting)}" if fitting else f"no column of {wanted}"
        raise InputError(f"{where} has {found}; its columns are {', '.join(every)}: name one by {option}")
    return chosen[0]


def class_names_of_numbers(where: str, present: Sequence[int], names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes of these numbers, in their order; the numbers themselves where there are no names.

    Raises InputError for numbers beyond the names, and names that are not different.
    """
    if names is None:
        remark(f"{where}: there are no names of the classes, they are called by their numbers")
        return tuple(str(number) for number in present)
    outside = [number for number in present if not 0 <= number < len(names)]
    if outside:
        raise InputError(f"{where} has label {outside[0]}, but names for 0 to {len(names) - 1} alone; mend the labels")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise InputError(f"{where} has the class name {twice!r} more than once; give every class a name of its own")
    return tuple(names[number] for number in present)
