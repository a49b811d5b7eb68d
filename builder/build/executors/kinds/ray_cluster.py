"""A Ray cluster: one actor per worker, wherever Ray finds room for it.

An actor has a child process of its own that does the tasks and keeps the backends between
them; so a crash costs one task alone and is told by its cause, as on one machine.  The actor
itself, or its whole node, may die too: Ray restarts it and repeats the call, which carries the
task and so begins it anew.  ``ray_pool`` has the actors and says which node gets what.
"""

import itertools
import logging
import math
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import ray
from pydantic import Field
from ray._private import ray_constants
from ray.exceptions import RayError

from builder.build.executors.base import Events, Executor, Function
from builder.build.executors.kinds.ray_pool import REACH_SECONDS, Pool, gist
from builder.core.cores import available_cores
from builder.core.errors import ConfigError
from schemas.base import Record

if TYPE_CHECKING:
    from typing_extensions import Never

_CLUSTERS = "ENABLE_RAY_CLUSTER"


class RayClusterConfig(Record):
    """Settings of the ``ray`` executor."""

    address: str = Field(
        default="local",
        description="host:port or ray://host:port of a cluster, auto for the one that runs on "
        "this machine, local to start one for the build, which no other machine can reach",
    )
    num_cpus: float = Field(default=1.0, ge=0, description="that Ray sets aside per worker")
    num_gpus: float = Field(
        default=0.0, ge=0, description="per worker; 1 gives each tracker a device of its own"
    )


class RayCluster(Executor):
    """Runs tasks in Ray actors; without ``workers``, in as many as the cluster has room for."""

    Config = RayClusterConfig

    def __init__(self, config: RayClusterConfig, workers: int | None, stall_seconds: float) -> None:
        self.config, self.workers, self.stall_seconds = config, workers, stall_seconds
        if not ray.is_initialized():
            _check_reachable(config.address)

    def run(self, function: Function, tasks: Iterable[Any]) -> Events:
        """Yield progress and one Outcome per task; see ``builder.build.executors.base``.

        Raises ConfigError when the cluster cannot be used or has no room for a worker, and
        LettersetError when workers cannot start on it.
        """
        tasks = iter(tasks)
        first = list(itertools.islice(tasks, 1))
        if not first:
            return
        with self._connected():
            config = self.config
            resources = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus}
            pool = Pool(function, resources, self.workers, self.stall_seconds, self.on_notice)
            if not pool.size:
                self._refuse_room()
            try:
                yield from pool.run(itertools.chain(first, tasks))
            finally:
                pool.end()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Join the cluster, or the one this program has joined already, which is then kept."""
        if ray.is_initialized():
            yield
            return
        how: dict[str, Any] = {"address": self.config.address}
        local = self.config.address == "local"
        if local:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            workers = self.workers or available_cores()
            # As asked for, also when it is more than there are cores.
            how["num_cpus"] = max(available_cores(), math.ceil(workers * self.config.num_cpus))
            how["include_dashboard"] = False
        try:
            with _own_signals(), _loopback_alone() if local else nullcontext():
                ray.init(**how, log_to_driver=False, logging_level=logging.WARNING)
        except (RayError, OSError, RuntimeError, ValueError, ImportError) as error:
            raise ConfigError(
                f"executor.address {self.config.address!r}: Ray cannot be used there: "
                f"{gist(error)}{_cure(self.config.address, error)}"
            ) from None
        try:
            if local and not ip_address(ray.util.get_node_ip_address()).is_loopback:
                raise ConfigError(
                    f"executor.address 'local': Ray {ray.__version__} would open ports to the "
                    f"network; start it with ray start --head --node-ip-address=127.0.0.1 and "
                    f"set executor.address=auto"
                )
            yield
        finally:
            with _own_signals():
                ray.shutdown()

    def _refuse_room(self) -> "Never":
        """Raise ConfigError: no node has room for a worker."""
        wanted = {"CPU": self.config.num_cpus, "GPU": self.config.num_gpus}
        there = ray.cluster_resources()
        raise ConfigError(
            f"the Ray cluster has no room for a worker of executor.num_cpus="
            f"{wanted['CPU']:g} and executor.num_gpus={wanted['GPU']:g}: it has "
            f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
        )


def _cure(address: str, error: Exception) -> str:
    """Say what to do about errors whose own text does not."""
    if address.startswith("ray://") and isinstance(error, ImportError):
        return ". An address of ray:// needs pip install 'ray[client]'"
    if "InvalidAuthToken" in f"{error} {error.__cause__} {error.__context__}":
        return (
            ": it asks for a token, as ray start does where ~/.ray/auth_token was left. Set "
            "RAY_AUTH_MODE=token here, with the same file on all nodes, or start the cluster with "
            "RAY_AUTH_MODE=disabled"
        )
    return ""


def _check_reachable(address: str) -> None:
    """Raise ConfigError within seconds when nobody listens; Ray itself would try for long."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        raise ConfigError(
            f"executor.address is host:port, ray://host:port, auto or local, got {address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"executor.address {address!r}: no Ray cluster answers there ({error}); start one with "
            f"ray start --head, correct the address, or use executor.kind=processes"
        ) from None


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """Let Ray bind to 127.0.0.1, as it does where it knows no clusters; else it is on all networks.

    Its parameter for the address is of no use: Ray puts a reachable one in the place of 127.0.0.1.
    """
    before = getattr(ray_constants, _CLUSTERS, True)
    setattr(ray_constants, _CLUSTERS, False)
    try:
        yield
    finally:
        setattr(ray_constants, _CLUSTERS, before)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our reaction to signals, which Ray replaces."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            with suppress(ValueError):  # raised outside of the main thread, where none was set
                signal.signal(number, handler)
