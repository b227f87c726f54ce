"""Compilation of the training step, with XLA options for speed."""

import os
import re
import time
from collections.abc import Callable
from typing import Any

import jax

OPTIONS: dict[str, dict[str, str | bool]] = {
    # On CPUs, jaxlib 0.10 calls a library (YNN) for convolutions, whose weight gradients are up to four times slower
    # than XLA's own (benchmarks/training.py). The library keeps reductions and matrix products.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
    # A step of wrn-28-4 has over 500 kernels. XLA's CUDA graphs contain neither convolutions nor loops by default; with
    # both, all steps of a call on one GPU are one graph (2.8 instead of 3.1 ms a step, benchmarks/training.py).
    "gpu": {
        "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,"
        "CONVOLUTION,WHILE"
    },
}


def compile_program(
    program: Callable[..., Any], example: tuple[Any, ...], placement: Any, carry: int
) -> tuple[Any, float]:
    """Compiles a program.

    Options in XLA_FLAGS take precedence, and options that this jaxlib does not know are left out.

    Args:
      program: the function.
      example: its arguments, or arrays of the same shapes and placement.
      placement: the sharding of the results.
      carry: the index of the argument whose memory is donated.

    Returns:
      The compiled program, and the seconds that compilation took.
    """
    start = time.monotonic()
    lowered = jax.jit(program, out_shardings=placement, donate_argnums=carry).lower(*example)
    options = OPTIONS.get(jax.tree.leaves(placement)[0].mesh.devices.flat[0].platform, {})
    flags = os.environ.get("XLA_FLAGS", "")
    try:
        compiled = lowered.compile({name: value for name, value in options.items() if name not in flags})
    except jax.errors.JaxRuntimeError as error:
        if not re.search("No such compile option|not a valid enum value", str(error)):
            raise
        compiled = lowered.compile()
    return compiled, time.monotonic() - start
