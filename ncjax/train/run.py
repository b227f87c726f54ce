"""The fixed part of a run: settings, data, sizes, networks, and the plan of measurements."""

import dataclasses
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from ncjax import devices, keys
from ncjax.classifier import Classifier
from ncjax.errors import InputError
from ncjax.models import Network
from ncjax.train import measurement as measuring, streaming, throughput
from ncjax.train.config import Resolved, identity
from ncjax.train.description import DataDescription, Description
from ncjax.train.measurement import MeasurementPlan
from ncjax.train.optimizer import optimizer
from ncjax.train.recipe import Recipe, check_recipe, network_of
from ncjax.train.run_data import RunData
from ncjax.train.step import TrainState
from ncjax.train.teacher import load_teacher
from ncjax.train.trainer import Setup, initial

OnRecord = Callable[[dict[str, Any]], object]
"""A function of a record."""


@dataclass(frozen=True)
class Run:
    """A run of one seed, or of several seeds trained as one program.

    Attributes:
      configs: the settings of each seed.
      unfinished: indices of the seeds to train. The other seeds are computed too, since a program of fewer seeds would
        not give the same bits, but their folders do not change.
      data: the data.
      setup: the inputs of the compiled step, with the network at the precision of training.
      teacher: of distillation; None without it.
      float32_network: the network for measurements and for the classifiers that are returned.
      measurement: what is measured.
      measured_steps: the steps at which it is measured.
      total_steps: the last step.
      on_record: called with each new record and its seed, as "seed", by the first process.
    """

    configs: Sequence[Resolved]
    unfinished: Sequence[int]
    data: RunData
    setup: Setup
    teacher: Classifier | None
    float32_network: Network
    measurement: MeasurementPlan
    measured_steps: Sequence[int]
    total_steps: int
    on_record: OnRecord | None = None

    @classmethod
    def of(
        cls,
        configs: Sequence[Resolved],
        data: RunData,
        unfinished: Sequence[int] | None = None,
        on_record: OnRecord | None = None,
    ) -> "Run":
        """Plans a run; all seeds are unfinished by default.

        Raises:
          InputError: if the settings do not fit the data or the devices.
        """
        config, train, mesh = configs[0], data.benchmark.source_train, devices.data_mesh()
        num_images, num_classes = len(train.labels), len(train.class_names)
        _check_batch(config.batch_size, num_images, mesh.size)
        throughput.check_precision(mesh, config.precision)
        if data.is_streamed:
            streaming.check_installed()
        image_shape = tuple(train.images.shape[1:])
        network = network_of(config, num_classes)
        check_recipe(config, data.benchmark, network)
        jax.eval_shape(lambda: network.init(keys.root(0), image_shape))  # raises if the images do not fit
        total_steps = max(-(-config.epochs * num_images // config.batch_size), config.min_steps)
        return cls(
            configs=configs,
            unfinished=range(len(configs)) if unfinished is None else unfinished,
            data=data,
            setup=Setup(
                network=network_of(config, num_classes, jnp.dtype(config.precision)),
                tx=optimizer(config, total_steps),
                recipe=Recipe.of(config, data.augmentation(config)),
                batch_size=config.batch_size,
                num_images=num_images,
                image_shape=image_shape,
                mesh=mesh,
            ),
            teacher=load_teacher(config, data),
            float32_network=network,
            measurement=measuring.plan(data.benchmark, config),
            measured_steps=measuring.steps_to_measure(total_steps, num_images / config.batch_size, config.measurements),
            total_steps=total_steps,
            on_record=on_record,
        )

    def classifier(self, state: TrainState) -> Classifier:
        """Returns the classifier of a seed's state, without a feature mean."""
        return Classifier(
            state.classifier_variables,
            jnp.asarray(self.data.mean),
            jnp.asarray(self.data.std),
            network=self.float32_network,
            augmentation=self.setup.recipe.augmentation,
        )

    def state_bytes(self) -> int:
        """Returns the size of one seed's state in bytes."""
        state = jax.eval_shape(lambda: initial(self.setup, 0))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    def describe(self, config: Resolved) -> Description:
        """Returns the description of the run of one seed."""
        benchmark = self.data.benchmark
        splits = {
            "source_train": benchmark.source_train,
            "source_test": benchmark.source_test,
            "validation": benchmark.validation,
            "target": benchmark.target,
        }
        return Description(
            settings=dataclasses.asdict(config) | {"workdir": str(config.workdir)},
            identity=identity(config),
            total_steps=self.total_steps,
            data=DataDescription(
                name=benchmark.name,
                fingerprint=self.data.fingerprint,
                num_source_classes=len(benchmark.source_train.class_names),
                image_shape=self.setup.image_shape,
                mean=tuple(self.data.mean.tolist()),
                std=tuple(self.data.std.tolist()),
                augmentation=self.setup.recipe.augmentation,
                made_with=dict(benchmark.made_with),
                measured_per_class=self.measurement.per_class,
                images={name: len(split.labels) for name, split in splits.items() if split is not None},
                classes={name: len(split.class_names) for name, split in splits.items() if split is not None},
            ),
            versions=self.versions(),
        )

    def versions(self) -> dict[str, Any]:
        """Returns the versions of the software, and the devices."""
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
        """Returns an entry of config.json's list of executions: versions, and JAX's settings that change numbers."""
        names = (
            "jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
        )  # fmt: skip
        settings = {name: getattr(jax.config, name) for name in names}
        return {"first_step": first_step, **self.versions(), **settings}


def _check_batch(batch_size: int, num_images: int, num_devices: int) -> None:
    if batch_size > num_images:
        raise InputError(
            f"batch_size={batch_size} is more than the {num_images} training images; set a smaller batch_size"
        )
    if batch_size % num_devices:
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
