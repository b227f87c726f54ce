"""Compilation of the training step, with the options of XLA that make it fast."""

import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax

OPTIONS: dict[str, dict[str, str | bool]] = {
    # jaxlib 0.10 hands convolutions on a CPU to a library (YNN) that computes their weight gradients up to four times
    # slower than XLA's own (benchmarks/training.py has the steps); reductions and products of matrices stay with it.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
    # A step of wrn-28-4 is over 500 kernels. XLA leaves convolutions and loops out of its CUDA graphs by default; with
    # both in them, all steps of a call on one GPU are one graph (3.1 to 2.8 ms a step, benchmarks/training.py).
    "gpu": {
        "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,"
        "CONVOLUTION,WHILE"
    },
}


def compile_program(
    program: Callable[..., Any], example: tuple[Any, ...], placement: Any, carry: int
) -> tuple[Any, float]:
    """Compiles a program that donates argument `carry`; returns it with the seconds that took.

    Options that XLA_FLAGS sets are left to it, and options that this jaxlib lacks are left out.
    """
    start = time.monotonic()
    lowered = jax.jit(program, out_shardings=placement, donate_argnums=carry).lower(*example)
    options = OPTIONS.get(jax.tree.leaves(placement)[0].mesh.devices.flat[0].platform, {})
    chosen = os.environ.get("XLA_FLAGS", "")
    try:
        compiled = lowered.compile({name: value for name, value in options.items() if name not in chosen})
    except jax.errors.JaxRuntimeError as error:
        if not re.search("No such compile option|not a valid enum value", str(error)):
            raise
        compiled = lowered.compile()
    return compiled, time.monotonic() - start
