"""Who takes part in a run: alone, under torchrun or the deepspeed launcher, or under srun. No MPI."""

from __future__ import annotations

import atexit
import datetime
import logging
import os
import resource
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from vol3d.errors import ConfigError, RankError

log = logging.getLogger("vol3d")

TIMEOUT = datetime.timedelta(hours=4)
"""Ranks wait this long for each other: validation and calibration run on rank 0 alone. Launchers end the others when
one dies."""

TEXT_BYTES = 512

LOST = ("Connection closed by peer", "reset by peer", "Broken pipe", "imed out", "NCCL communicator was aborted",
        "remote process exited")  # fmt: skip
"""What gloo and NCCL say when a rank is gone."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among all."""

    rank: int
    world: int
    local_rank: int
    master: str | None = None
    """``host:port`` of rank 0; None for a process on its own."""


def find_place(environ: Mapping[str, str]) -> Place:
    """Reads the launcher's variables: torchrun's and deepspeed's first, then srun's; without either, one process.

    Under srun the master is the first host of the step and the port follows from the job and step numbers, so that
    every rank finds the same without talking; `MASTER_ADDR` and `MASTER_PORT` override both.

    Raises:
        ConfigError: the variables are there but incomplete, or no numbers.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ and "MASTER_ADDR" in environ:
        master = f"{environ['MASTER_ADDR']}:{_number(environ, 'MASTER_PORT', 29500)}"
        return Place(
            _number(environ, "RANK"), _number(environ, "WORLD_SIZE"), _number(environ, "LOCAL_RANK", 0), master
        )
    # Inside an sbatch script SLURM_PROCID and SLURM_NTASKS are set too; only srun sets SLURM_STEP_NUM_TASKS.
    world = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    if world == 1 or "SLURM_PROCID" not in environ:
        if _number(environ, "WORLD_SIZE", 1) > 1:  # each rank would take itself for the only one
            missing = " and ".join(name for name in ("RANK", "MASTER_ADDR") if name not in environ)
            raise ConfigError(
                f"expected RANK, WORLD_SIZE and MASTER_ADDR from the launcher, found WORLD_SIZE="
                f"{environ['WORLD_SIZE']} without {missing}; start the ranks with srun, torchrun or deepspeed, or "
                f"unset WORLD_SIZE"
            )
        return Place(0, 1, 0)
    job, step = _number(environ, "SLURM_JOB_ID", 0), _number(environ, "SLURM_STEP_ID", 0)
    port = _number(environ, "MASTER_PORT", 20000 + (job * 7 + step) % 20000)
    host = environ.get("MASTER_ADDR") or _first_host(environ)
    return Place(_number(environ, "SLURM_PROCID"), world, _number(environ, "SLURM_LOCALID", 0), f"{host}:{port}")


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    try:
        return int(environ.get(name, default))
    except ValueError:
        raise ConfigError(f"expected a number in {name}, found {environ[name]!r}") from None


def _first_host(environ: Mapping[str, str]) -> str:
    if environ.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1"
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
    if nodes and not set(nodes) & set("[,"):
        return nodes
    try:
        listed = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=60
        )
        return listed.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        if (
            "SLURM_LAUNCH_NODE_IPADDR" in environ
        ):  # right where srun was started on the first node, as in an sbatch script
            return environ["SLURM_LAUNCH_NODE_IPADDR"]
    raise ConfigError(
        f"expected the first host of {nodes!r} from `scontrol show hostnames`, found none; "
        f"export MASTER_ADDR=<host of rank 0> before srun"
    )


def join() -> Place:
    """Enters the process group of all ranks (nccl on CUDA, else gloo), and picks this process's device.

    Raises:
        ConfigError: the launcher's variables are incomplete.
        RankError: the ranks do not find each other.
    """
    place = find_place(os.environ)
    # DeepSpeed reads these, whatever the launcher was
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world), LOCAL_RANK=str(place.local_rank))
    if device().type == "cuda":
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    if dist.is_initialized():
        return place
    atexit.register(_leave)
    backend = "nccl" if device().type == "cuda" else "gloo"
    if place.master is None:  # no port and no file: nothing that two runs on one machine could fight over
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=TIMEOUT)
        return place
    log.info("rank %d of %d goes to %s, where all ranks meet", place.rank, place.world, place.master)
    try:
        dist.init_process_group(
            backend, init_method=f"tcp://{place.master}", rank=place.rank, world_size=place.world, timeout=TIMEOUT
        )
    except dist.DistError as error:
        raise RankError(
            f"expected {place.world} ranks to meet at {place.master}, found {str(error).splitlines()[0]}; export "
            f"another MASTER_PORT if that port is taken, and MASTER_ADDR or NCCL_SOCKET_IFNAME if a node does not "
            f"reach it"
        ) from None
    return place


@contextmanager
def tiny_numbers(*, are_zero: bool) -> Iterator[None]:
    """Whether this thread, and those that torch starts from it, take numbers under 1e-38 as zero, on a CPU.

    Gradients of voxels that a mask is sure of fade that far, and with each such number an x86 core takes a detour: a
    half-trained model's backward pass took 2.5 times as long. Only for training: scipy's search trees need them.
    """
    torch.set_flush_denormal(are_zero)
    try:
        yield
    finally:
        torch.set_flush_denormal(not are_zero)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Says in plain words that another rank is gone, which torch says in many.

    Raises:
        RankError: a collective operation broke off because another process ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if dist.get_world_size() == 1 or not any(word in text for word in LOST):
            raise
        raise RankError(
            f"expected {dist.get_world_size()} ranks, found one gone ({text.splitlines()[0]}); the log of the rank "
            f"that ended first says why. The last checkpoint is whole: go on with --resume auto"
        ) from error


def device() -> torch.device:
    """The accelerator of this process; DS_ACCELERATOR=cpu keeps a machine with a GPU on its CPU."""
    if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def multiplies_bf16() -> bool:
    """Whether every rank's hardware multiplies bf16 itself; emulated, it is several times slower than fp32."""
    if device().type == "cuda":
        own = torch.cuda.get_device_capability() >= (8, 0)
    else:
        try:
            words = set(Path("/proc/cpuinfo").read_text().split())
        except OSError:
            words = set()
        own = bool(words & {"amx_bf16", "avx512_bf16", "bf16"})  # Intel, AMD, ARM
    return bool(gather_numbers([float(own)]).min())


def is_main() -> bool:
    """Whether this is rank 0, which writes what all share."""
    return dist.get_rank() == 0


def memory_mb() -> float:
    """Most that this process has held so far: of its GPU, or without one of main memory."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def barrier() -> None:
    """Waits for all ranks."""
    dist.barrier()


def gather_numbers(values: list[float]) -> torch.Tensor:
    """float64 [ranks, len(values)], the same on every rank."""
    mine = torch.tensor(values, dtype=torch.float64, device=device())
    everyone = torch.empty(dist.get_world_size(), len(values), dtype=torch.float64, device=device())
    dist.all_gather_into_tensor(everyone.view(-1), mine)
    return everyone.cpu()


def gather_text(text: str) -> list[str]:
    """A short text of each rank, cut at 512 bytes, without pickle."""
    raw = text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
    mine = torch.tensor(list(raw), dtype=torch.uint8, device=device())
    everyone = torch.empty(dist.get_world_size() * TEXT_BYTES, dtype=torch.uint8, device=device())
    dist.all_gather_into_tensor(everyone, mine)
    rows = everyone.cpu().view(-1, TEXT_BYTES)
    return [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in rows]
