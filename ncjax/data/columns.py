"""The choice of the image and label columns of a table, and the names of its classes."""

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
    """Picks the column asked for, or the only fitting column, or the first fitting column with a usual name.

    Args:
      where: the file, for messages.
      option: the setting that names the column.
      asked: its value; None to choose by type.
      every: all columns.
      fitting: the columns of a suitable type.
      wanted: that type in words.
      usual: preferred names.

    Raises:
      InputError: if no column or several columns fit, or the column asked for has another type.
    """
    if asked is not None and asked not in every:
        raise InputError(f"{where} has no column {asked}; its columns are {', '.join(every)}")
    if asked is not None and asked not in fitting:
        raise InputError(f"{where}: column {asked} is not of {wanted}; {option} must name a column that is")
    if asked is not None:
        return asked
    chosen = list(fitting) if len(fitting) == 1 else [name for name in usual if name in fitting][:1]
    if not chosen:
        problem = f"several columns of {wanted}: {', '.join(fitting)}" if fitting else f"no column of {wanted}"
        raise InputError(f"{where} has {problem}; its columns are {', '.join(every)}: name one by {option}")
    return chosen[0]


def class_names_of_numbers(where: str, present: Sequence[int], names: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the names of the classes of these numbers; the numbers as text where there are no names.

    Raises:
      InputError: if a number has no name, or two classes have the same name.
    """
    if names is None:
        remark(f"{where}: the classes have no names; their numbers serve as names")
        return tuple(str(number) for number in present)
    outside = [number for number in present if not 0 <= number < len(names)]
    if outside:
        raise InputError(f"{where} has label {outside[0]}, but names only for 0 to {len(names) - 1}; fix the labels")
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise InputError(f"{where} has the class name {twice!r} more than once; give every class its own name")
    return tuple(names[number] for number in present)
