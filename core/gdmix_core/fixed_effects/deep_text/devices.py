"""TensorFlow's start in a process that fits: threads, accelerators, the gang."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gdmix_core.fixed_effects.plugin import Gang

if TYPE_CHECKING:
    import tensorflow as tf


def start_tensorflow(threads: int, gang: Gang | None) -> tf.distribute.Strategy:
    """Set TensorFlow up and return what trains: this process alone, or the gang, which is waited for.

    An accelerator is used where there is one; it gives memory as it is needed, so that others may use it too.
    """
    import tensorflow as tf

    # A process that has used TensorFlow before keeps what it began with.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
    if gang is None or gang.size == 1:
        return tf.distribute.get_strategy()
    cluster = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(gang.addresses)}),
        task_type="worker",
        task_id=gang.rank,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
