"""What the loaders of pretrained models share."""

from __future__ import annotations

import difflib
import importlib
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from ncjax.errors import InputError, first_line
from ncjax.preprocessing import INTERPOLATIONS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Request:
    """What is asked of a model; see `ncjax.encoders.load`."""

    random_weights: bool = False
    image_size: int | None = None
    stages: tuple[str, ...] = ()
    precision: str = "float32"


@dataclass(frozen=True)
class Loaded:
    """A module, and what `from_torch` is told of it: preprocessing and output."""

    module: torch.nn.Module
    settings: dict[str, Any]


def import_library(name: str, extra: str) -> Any:
    """A library of an extra of the package.

    Raises:
        InputError: It is not installed, or does not fit what else is.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in (name, "torch", "torchvision", "timm", "transformers"):
            raise InputError(f'{error.name} is not installed: pip install -e ".[{extra}]"') from error
        raise InputError(f"{name} cannot be imported: {first_line(error)}") from error
    except Exception as error:
        raise InputError(
            f"{name} cannot be imported ({first_line(error)}); where torchvision is named, it was built for another "
            "torch: install the two together"
        ) from error


@contextmanager
def without_waiting_for_a_network() -> Iterator[None]:
    """Tells Hugging Face's hub to look on the disk alone, where its address is not known here.

    Without a network it would try again for a minute and a half.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = before or not _is_known(urlsplit(constants.ENDPOINT).hostname)
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_known(host: str | None) -> bool:
    """Whether the name of a host leads to an address; a proxy may know more than this machine."""
    if host is None or getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


@contextmanager
def weights_from(spec: str, place: str | None) -> Iterator[None]:
    """Turns the many errors of a download into one line that says what to download, and where from.

    Raises:
        InputError: Anything was raised inside.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        source = "there are none" if place is None else f"download {place} on a machine with a network, into its cache"
        raise InputError(
            f"the weights of {spec} are not here and cannot be downloaded ({first_line(error)[:160]}): {source}, or "
            "ask for random weights"
        ) from error


def unknown(spec: str, name: str, known: Iterable[str]) -> InputError:
    """An error that names models of similar names."""
    near = difflib.get_close_matches(name, list(known), 3, 0.5)
    return InputError(f"there is no model {spec}" + (f"; did you mean {', '.join(near)}?" if near else ""))


def check_interpolation(spec: str, interpolation: str) -> str:
    """The name of an interpolation that ncjax has.

    Raises:
        InputError: It has not.
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"{spec} resizes by {interpolation!r}; ncjax has {', '.join(INTERPOLATIONS)}")
    return interpolation
