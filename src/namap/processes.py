"""Several processes that train one model: who is here, and what they tell each other.

They run the same command and take the same steps, each on its part of every batch. The first one, `main`, alone
reads and writes the run's directory and speaks. In a process that works alone everything here is the identity.

`accelerate launch` (or torchrun, or mpirun) starts them; they meet when the first device is picked.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from .errors import Interrupted, NamapError, UsageError
from .launch import launched, place_here

PATIENCE = timedelta(minutes=10)  # for a process that is silent though its host is there: it may read a slow disk
LAST_WORDS = "namap/last-words"
WORDS_SECONDS = 3.0  # to leave them and to hear them


def met() -> bool:
    """Whether this process has met the others."""
    return distributed.is_available() and distributed.is_initialized()


def count() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if met() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if met() else 0


def is_main() -> bool:
    """Whether this one reads, writes and speaks for all."""
    return rank() == 0


def meet(device: torch.device) -> torch.device:
    """Wait for the other processes, where there are any; return the device of this one.

    Raises:
        UsageError: they do not find each other, or the device belongs to another process.
    """
    if launched() == 1 and not met():
        return device
    own = torch.cuda.current_device() if met() and device.type == "cuda" else place_here()
    if device.type == "cuda" and device.index not in (None, own):
        raise UsageError(f"--device {device}: each of several processes takes a GPU of its own; leave it at auto")
    if not met():
        from accelerate import PartialState

        where = f"{os.environ.get('MASTER_ADDR', 'localhost')}:{os.environ.get('MASTER_PORT', '29500')}"
        try:
            PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:  # torch.distributed's own errors are RuntimeErrors
            if "in use" in str(error) or "EADDRINUSE" in str(error):
                raise UsageError(f"port {where} is in use; choose another with --main_process_port") from error
            raise UsageError(
                f"{launched()} processes did not meet at {where} ({str(error).splitlines()[0]}); "
                "start all of them with the same --main_process_ip and --main_process_port"
            ) from error
    return _own_gpu() if device.type == "cuda" else device


def _own_gpu() -> torch.device:
    """The GPU that accelerate has chosen for this process."""
    return torch.device("cuda", torch.cuda.current_device())


def leave() -> None:
    """Wait until all have come to their end."""
    if met():
        _together(distributed.barrier)
        distributed.destroy_process_group()


def _together(collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """A collective operation; where a process is gone, what it said last is raised here, too."""
    try:
        collective(*arguments, **options)
    except RuntimeError as error:
        raise _last_words() from error


def _last_words() -> NamapError:
    """Why another process is gone, as it told before it ended, or that it is."""
    store = distributed.distributed_c10d._get_default_store()
    until = time.monotonic() + WORDS_SECONDS
    try:
        while not store.check([LAST_WORDS]):
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        else:
            words = json.loads(store.get(LAST_WORDS))
            return _Echo(words["message"], words["exit_code"])
    except RuntimeError:  # the keeper of the store is gone with it
        pass
    return Interrupted(
        "another process of this run is lost; run the same command again to go on from the last checkpoint",
        143,
    )


class _Echo(NamapError):
    """An error that another process has met."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def tell(error: NamapError) -> bool:
    """Leave word of the error that ends this process; return whether this process should print it: one does."""
    if not met():
        return place_here() == 0
    store, keeper, others = distributed.distributed_c10d._get_default_store(), is_main(), count() - 1
    try:
        store.set(LAST_WORDS, json.dumps({"message": str(error), "exit_code": error.exit_code}))
        first = store.add("namap/" + hashlib.sha256(str(error).encode()).hexdigest(), 1) == 1
        store.add("namap/ended", 1)
        if keeper and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()  # closes connections: the others notice, and look into the store
            until = time.monotonic() + WORDS_SECONDS
            while store.add("namap/ended", 0) <= others and time.monotonic() < until:
                time.sleep(0.05)
        return first
    except RuntimeError:  # nobody keeps it any more: say it rather twice than never
        return True


def check_division(label: str, batch_size: int, divisible: bool) -> None:
    """Refuse a training that several processes would not do as one does.

    Raises:
        UsageError: names what cannot be divided.
    """
    if count() > 1 and not divisible:
        raise UsageError(f"{label}: several processes cannot share this training; start it in one")
    if batch_size % count():
        nearest = max(count(), batch_size // count() * count())
        raise UsageError(
            f"{count()} processes cannot divide a batch of {batch_size}; start another number of them, or a run with "
            f"batch_size={nearest}"
        )


def part(total: int) -> slice:
    """The rows of a batch that are this process's."""
    each = total // count()
    return slice(rank() * each, (rank() + 1) * each)


def normal(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Draws from N(0, 1), `[b …]`: those of the whole batch are drawn, and this process's rows returned."""
    whole = torch.randn(shape[0] * count(), *shape[1:], generator=rng, device=rng.device)
    return whole[part(len(whole))]


def uniform(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Draws from U(0, 1), `[b …]`, as `normal` draws."""
    whole = torch.rand(shape[0] * count(), *shape[1:], generator=rng, device=rng.device)
    return whole[part(len(whole))]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        out = t.contiguous().clone()
        _together(distributed.all_reduce, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = gradient.contiguous().clone()
        _together(distributed.all_reduce, out)
        return out


def total(t: Tensor) -> Tensor:
    """The sum over the processes; gradients flow to all of them."""
    return t if count() == 1 else _Total.apply(t)  # pyright: ignore[reportReturnType]


def gather(t: Tensor) -> Tensor:
    """`[b …]` of every process as `[B …]`; gradients flow to the process that a row came from."""
    if count() == 1:
        return t
    rows = part(len(t) * count())
    before, after = t.new_zeros(rows.start, *t.shape[1:]), t.new_zeros(len(t) * count() - rows.stop, *t.shape[1:])
    return total(torch.cat([before, t, after]))


@torch.no_grad()
def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over the processes, in one message."""
    if count() > 1:
        flat = torch.cat([t.flatten().float() for t in tensors])
        _together(distributed.all_reduce, flat)
        for t, new in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(new.view(t.shape))


def most(*numbers: int) -> list[int]:
    """The largest over the processes, of each number."""
    if count() == 1:
        return list(numbers)
    values = torch.tensor(numbers, dtype=torch.int64, device=_wire())
    _together(distributed.all_reduce, values, op=distributed.ReduceOp.MAX)
    return values.tolist()


def _wire() -> torch.device:
    """Where tensors must be to be sent."""
    return _own_gpu() if distributed.get_backend() == "nccl" else torch.device("cpu")


def everyones(value: Any) -> list[Any]:
    """A JSON value of every process, in their order."""
    if count() == 1:
        return [value]
    text = json.dumps(value).encode()
    (length,) = most(len(text))
    row = torch.frombuffer(bytearray(text.ljust(length)), dtype=torch.uint8).to(_wire())
    return [json.loads(bytes(r.tolist())) for r in gather(row[None])]


def of_main(value: Any = None) -> Any:
    """A JSON value of main's, for all."""
    if count() == 1:
        return value
    text = json.dumps(value).encode() if is_main() else b""
    (length,) = most(len(text))
    sent = torch.frombuffer(bytearray(text.ljust(length)), dtype=torch.uint8).to(_wire())
    _together(distributed.broadcast, sent, 0)
    return json.loads(bytes(sent.tolist()))


def tensors_of_main(tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """Main's tensors, for all: what it has read from a disk that may be its own."""
    if count() == 1:
        return tensors or {}
    kinds = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in (tensors or {}).items()}
    received = {}
    for name, (dtype, shape) in of_main(kinds).items():
        t = tensors[name] if tensors else torch.empty(shape, dtype=getattr(torch, dtype))
        sent = t.contiguous().to(_wire())
        _together(distributed.broadcast, sent, 0)
        received[name] = sent.cpu()
    return received


def versions() -> dict[str, str]:
    """What must be the same in every process, beside the run itself."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("namap", "torch", "numpy")}}


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the whole batch, of which this process has a part.

    torch's SyncBatchNorm works on GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`[b c h w]` to the same; means and variances of the processes are put together (Chan et al.)."""
        if not self.training:
            return super().forward(input)
        x, dims = input.float(), (0, 2, 3)
        means, variances = gather(torch.stack([x.mean(dims), x.var(dims, correction=0)])[None]).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1] * count())
        scale = self.weight * (variance + self.eps).rsqrt()
        out = (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return out.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, values: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * values / (values - 1), self.momentum)
        self.num_batches_tracked.add_(1)


@contextmanager
def shared_statistics(*modules: nn.Module) -> Iterator[None]:
    """Let the batch normalisations of these modules see the whole batch."""
    norms = [m for module in modules for m in module.modules() if type(m) is nn.BatchNorm2d and count() > 1]
    for norm in norms:
        norm.__class__ = SharedBatchNorm2d  # in place: optimizers, averages and tasks hold on to these very modules
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
