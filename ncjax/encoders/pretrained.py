"""Helpers of the loaders of pretrained models."""

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
class ModelRequest:
    """Settings of a model to load; see `ncjax.encoders.load`."""

    random_weights: bool = False
    image_size: int | None = None
    stages: tuple[str, ...] = ()
    precision: str = "float32"


@dataclass(frozen=True)
class Loaded:
    """A module, and arguments of `from_torch` for its preprocessing and output."""

    module: torch.nn.Module
    settings: dict[str, Any]


def import_library(name: str, extra: str) -> Any:
    """Imports a library that belongs to an extra of the package.

    Raises:
        InputError: It is not installed, or is incompatible with other libraries.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in (name, "torch", "torchvision", "timm", "transformers"):
            raise InputError(f'{error.name} is not installed: pip install -e ".[{extra}]"') from error
        raise InputError(f"{name} cannot be imported: {first_line(error)}") from error
    except Exception as error:
        raise InputError(
            f"{name} cannot be imported ({first_line(error)}); if this names torchvision, it was built for another "
            "torch: install both together"
        ) from error


@contextmanager
def without_waiting_for_a_network() -> Iterator[None]:
    """Sets Hugging Face's hub offline if its host name cannot be resolved.

    Without a network, the hub would retry for a minute and a half.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = before or not _is_known(urlsplit(constants.ENDPOINT).hostname)
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_known(host: str | None) -> bool:
    """Whether a host name can be resolved, here or perhaps by a proxy."""
    if host is None or getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


@contextmanager
def weights_from(spec: str, place: str | None) -> Iterator[None]:
    """Turns any error of a download into an InputError that says what to download from where.

    Raises:
        InputError: The body raised an exception.
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
    """Returns an error that suggests models with similar names."""
    near = difflib.get_close_matches(name, list(known), 3, 0.5)
    return InputError(f"there is no model {spec}" + (f"; did you mean {', '.join(near)}?" if near else ""))


def check_interpolation(spec: str, interpolation: str) -> str:
    """Returns the interpolation.

    Raises:
        InputError: ncjax does not support it.
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"{spec} resizes by {interpolation!r}; ncjax has {', '.join(INTERPOLATIONS)}")
    return interpolation
