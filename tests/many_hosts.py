"""One process of a run of several, for test_train_hosts.py: many_hosts.py WORKDIR [die]."""

import os
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 2)

import tiny  # noqa: E402

from ncjax import cli, models  # noqa: E402
from ncjax.train import Config, loop  # noqa: E402


def main() -> None:
    """Trains the tiny network; the process with the last number may die on the way."""
    workdir = Path(sys.argv[1])
    cli.join_processes()
    models.create = lambda name, k, dtype=None: tiny.network(k) if dtype is None else tiny.network(k, dtype)
    config = Config(
        network="tiny", epochs=3, min_steps=24, batch_size=16, learning_rate=0.1, schedule="cosine",
        measurements=3, measure_episodes=50, workdir=workdir, distributed=True,
    )  # fmt: skip
    if "die" in sys.argv and jax.process_index() == jax.process_count() - 1:
        original = loop._Run._advance

        def advance(self, *arguments):
            result = original(self, *arguments)
            if result[1] >= 8:
                os._exit(9)
            return result

        loop._Run._advance = advance
    with cli.one_line_errors():
        loop.pretrain(config, benchmark=tiny.benchmark())


if __name__ == "__main__":
    main()
