"""Random bits: the generator of `ncjax.keys` beside JAX's own, which gives the same numbers.

    python benchmarks/keys.py

4,096 keys with 80 numbers each, as episodes draw them. A time is the least of many rounds in which the two take turns;
compile time is separate, and every round compiles again.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ncjax import keys

EPISODES, NUMBERS, ROUNDS = 4096, (16, 5), 30


def bits(key: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), NUMBERS, jnp.uint32))(numbers)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    numbers = jnp.arange(EPISODES, dtype=jnp.uint32)
    of = {"ncjax.keys": keys.root(0), "jax.random.key": jax.random.key(0)}

    def program(name: str) -> Callable[[jax.Array], jax.Array]:
        return jax.jit(lambda numbers: bits(of[name], numbers))

    compiling, running = dict.fromkeys(of, np.inf), dict.fromkeys(of, np.inf)
    for _ in range(5):
        for name in of:
            lowered = program(name).lower(numbers)
            compiling[name] = min(compiling[name], seconds(lambda lowered=lowered: lowered.compile() and None))
    draws = {name: program(name) for name in of}
    np.testing.assert_array_equal(*(draw(numbers) for draw in draws.values()))
    for _ in range(ROUNDS):
        for name, draw in draws.items():
            running[name] = min(running[name], seconds(lambda draw=draw: draw(numbers)))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {EPISODES:,} keys × {np.prod(NUMBERS)} numbers")
    for name in draws:
        print(
            f"{name:<16} compile {compiling[name]:6.3f} s ({compiling[name] / compiling['ncjax.keys']:4.1f}x)   "
            f"run {1e3 * running[name]:7.3f} ms ({running[name] / running['ncjax.keys']:4.1f}x)"
        )


if __name__ == "__main__":
    main()
