"""Clips on the machines of a Ray cluster (pip install ray)."""
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

from util.errors import InputError
from util.watch.jobs import PATIENCE_S, Outcome, work


def run_on_ray(commands: dict[str, list[str]], address: str, jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Yield (name, what `work` returned) as the commands end, each on one core of a Ray cluster; ends them if closed.

    address: HOST:PORT; "auto", the cluster that this machine is part of; "local", one made of this machine, `jobs` at a time.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs the package ray: pip install ray") from None
    on_sigterm = signal.getsignal(signal.SIGTERM)
    where = {"address": address, **({"num_cpus": jobs} if address == "local" else {})}
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
        ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
        raise InputError(f"--ray {address}: {str(error).splitlines()[0]}; expected local, auto or the HOST:PORT of a cluster") from None
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this program at once
    ray.cloudpickle.register_pickle_by_value(sys.modules[work.__module__])  # other machines need not be able to import it
    remote = ray.remote(num_cpus=1)(work)
    waiting = {remote.remote(command, os.getcwd()): name for name, command in commands.items()}
    try:
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting))
            name = waiting.pop(ready)
            try:
                yield name, ray.get(ready)
            except ray.exceptions.RayError as error:  # the machine is gone, and the attempts elsewhere have failed as well
                yield name, (1, "", str(error).splitlines()[0])
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=PATIENCE_S)
        ray.shutdown()
