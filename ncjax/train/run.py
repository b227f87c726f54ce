"""What stays the same from a run's first step to its last: sizes, networks, what is measured when."""

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from ncjax import devices, keys, models
from ncjax.classifier import Classifier
from ncjax.errors import InputError
from ncjax.models import Network
from ncjax.train import measurement as measuring
from ncjax.train import streaming, throughput
from ncjax.train.config import Resolved, identity, objective
from ncjax.train.measurement import Measurement
from ncjax.train.source import Source
from ncjax.train.step import TrainState, initial_state, optimizer
from ncjax.train.trainer import Setup


@dataclass(frozen=True)
class Run:
    """A run of one seed, or of many that are trained as one program.

    Attributes:
      configs: the settings of each seed.
      unfinished: indices of the seeds to train. The folders of the others stay as they are; they take part in the
        program, since in one of fewer seeds the others would not come to the same numbers bit by bit.
      source: the data.
      setup: what the compiled step needs, with the network at the precision of training.
      float32_network: the network that is measured, restored and handed out.
      measurement: what is measured.
      measured_steps: at which steps.
      total_steps: the last step.
    """

    configs: Sequence[Resolved]
    unfinished: Sequence[int]
    source: Source
    setup: Setup
    float32_network: Network
    measurement: Measurement
    measured_steps: Sequence[int]
    total_steps: int

    @classmethod
    def of(cls, configs: Sequence[Resolved], source: Source, unfinished: Sequence[int] | None = None) -> "Run":
        """Plans a run; all seeds are unfinished by default.

        Raises:
          InputError: if the settings do not fit the data or the devices.
        """
        config, train, mesh = configs[0], source.benchmark.source_train, devices.data_mesh()
        num_images, num_classes = len(train.labels), len(train.class_names)
        _check_batch(config.batch_size, num_images, mesh.size, divided=len(configs) == 1)
        throughput.check_precision(mesh, config.precision)
        if source.is_streamed:
            streaming.check_installed()
        image_shape = tuple(train.images.shape[1:])
        network = models.create(config.network, num_classes)
        jax.eval_shape(lambda: network.init(keys.root(0), image_shape))  # raises for images that do not fit it
        total_steps = max(-(-config.epochs * num_images // config.batch_size), config.min_steps)
        return cls(
            configs=configs,
            unfinished=range(len(configs)) if unfinished is None else unfinished,
            source=source,
            setup=Setup(
                network=models.create(config.network, num_classes, dtype=jnp.dtype(config.precision)),
                tx=optimizer(config, total_steps),
                objective=objective(config),
                augmentation=source.augmentation(config),
                batch_size=config.batch_size,
                num_images=num_images,
                image_shape=image_shape,
                mesh=mesh,
            ),
            float32_network=network,
            measurement=measuring.plan(source.benchmark, config),
            measured_steps=measuring.steps_to_measure(total_steps, num_images / config.batch_size, config.measurements),
            total_steps=total_steps,
        )

    def classifier(self, state: TrainState) -> Classifier:
        """The classifier of a seed's state; without a feature mean."""
        return Classifier(
            state.variables,
            jnp.asarray(self.source.mean),
            jnp.asarray(self.source.std),
            network=self.float32_network,
            augmentation=self.setup.augmentation,
        )

    def state_bytes(self) -> int:
        """The size of one seed's state."""
        state = jax.eval_shape(lambda: initial_state(self.float32_network, self.setup.tx, 0, self.setup.image_shape))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    def describe(self, config: Resolved) -> dict[str, Any]:
        """What config.json says of the run of one seed."""
        benchmark = self.source.benchmark
        splits = {
            "source_train": benchmark.source_train,
            "source_test": benchmark.source_test,
            "validation": benchmark.validation,
            "target": benchmark.target,
        }
        settings = dataclasses.asdict(config) | {"workdir": str(config.workdir)}
        return {
            "config": settings,
            "identity": identity(config),
            "total_steps": self.total_steps,
            "data": {
                "name": benchmark.name,
                "fingerprint": self.source.fingerprint,
                "num_source_classes": len(benchmark.source_train.class_names),
                "image_shape": list(self.setup.image_shape),
                "mean": self.source.mean.tolist(),
                "std": self.source.std.tolist(),
                "augmentation": self.setup.augmentation,
                "made_with": dict(benchmark.made_with),
                "measured_per_class": self.measurement.per_class,
                "images": {name: len(split.labels) for name, split in splits.items() if split is not None},
                "classes": {name: len(split.class_names) for name, split in splits.items() if split is not None},
            },
            "versions": self.versions(),
        }

    def versions(self) -> dict[str, Any]:
        """Versions of the software, and the devices."""
        return {
            "ncjax": _own_version(),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "numpy": np.__version__,
            "backend": jax.default_backend(),
            "devices": self.setup.mesh.size,
            "processes": jax.process_count(),
        }

    def execution(self, first_step: int) -> dict[str, Any]:
        """An entry in config.json's list of executions: versions, and JAX's settings that change numbers."""
        names = (
            "jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
        )  # fmt: skip
        settings = {name: getattr(jax.config, name) for name in names}
        return {"first_step": first_step, **self.versions(), **settings}


def _check_batch(batch_size: int, num_images: int, num_devices: int, *, divided: bool) -> None:
    if batch_size > num_images:
        raise InputError(f"batch_size={batch_size} is more than the {num_images} training images; set a smaller one")
    if divided and batch_size % num_devices:
        near = max(batch_size // num_devices, 1) * num_devices
        raise InputError(
            f"batch_size={batch_size} does not divide over {num_devices} devices; set it to {near}, "
            "or on a CPU JAX_NUM_CPU_DEVICES=1"
        )


def _own_version() -> str:
    try:
        return version("ncjax")
    except PackageNotFoundError:
        return "not installed"
