"""The passes of diff pruning as single loops on the CPU: passes.cpp, compiled on first use (compiled.py).

Each array is read once and written once a pass, with no temporary and whatever the sizes of the tensors.
(torch.compile was tried for this: it splits the in-place update into several loops with three full-size
temporaries between them.)
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...compiled import load
from .concrete import StretchedConcrete
from .flat import FlatLayout
from .noise import Keys
from .torch_passes import Moments, NextTheta, Rates, StepInputs, TorchPasses

SOURCE = Path(__file__).with_name("passes.cpp")
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_PIECES = "flat local length tensor group"
_MOMENTS = "w_mean w_square alpha_mean alpha_square"
_POINTERS = f"{_PIECES} theta base grad w alpha {_MOMENTS} gate next_gate price sums"
_FLOATS = "w_clip w_rate w_root w_eps alpha_clip alpha_rate alpha_root alpha_eps beta1 beta2"


class _Job(ctypes.Structure):
    """`struct Job` of passes.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        *((name, ctypes.c_float) for name in ("low", "high")),
        *((name, ctypes.c_uint32) for name in "first_key second_key next_first_key next_second_key".split()),
        *((name, ctypes.c_float) for name in _FLOATS.split()),
        ("sampled", ctypes.c_int32),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled passes; None, with a warning, where they cannot be had (see `compiled.load`)."""
    return load(SOURCE, "diff pruning runs without its fused passes, slower")


class NativePasses:
    """Does as TorchPasses, for parameters in float32 or bfloat16 on the CPU, w and alpha in float32."""

    def __init__(self, layout: FlatLayout, concrete: StretchedConcrete):
        self.layout = layout
        self._library = library()
        self._dtype = layout.parameters[0].dtype
        self._pieces = {name: getattr(layout, name).contiguous() for name in _PIECES.split()}
        self._concrete = concrete
        self._zeros: Tensor | None = None
        self._bounds: dict[int, list[int]] = {}  # by the number of threads

    @staticmethod
    def can(layout: FlatLayout, dtype: torch.dtype) -> bool:
        """Return whether these parameters, with w in `dtype`, are for this class and a compiler is there."""
        dtypes = {parameter.dtype for parameter in layout.parameters}
        ours = len(dtypes) == 1 and dtypes <= set(DTYPES)
        return layout.device.type == "cpu" and dtype == torch.float32 and ours and library() is not None

    def write(
        self, base: Sequence[Tensor], w: Tensor, alpha: Tensor, gate: Tensor, keys: Keys | None
    ) -> None:
        """Do as `TorchPasses.write`."""
        job, alive = self._job(w, alpha, gate, base=base)
        job.sampled = int(keys is not None)
        job.first_key, job.second_key = _unsigned(keys or (0, 0))
        self._run("write", job, alive)

    def measure(self, step: StepInputs) -> Tensor:
        """Do as `TorchPasses.measure`."""
        sums = torch.empty(self.layout.flat.numel(), 4, dtype=torch.float64)
        job, alive = self._job(step.w, step.alpha, step.gate, grads=step.grads, price=step.price)
        job.sums = sums.data_ptr()
        job.first_key, job.second_key = _unsigned(step.keys)
        self._run("measure", job, alive)
        return sums

    def update(
        self,
        step: StepInputs,
        moments: Moments,
        w_rates: Rates,
        alpha_rates: Rates,
        betas: tuple[float, float],
        following: NextTheta | None = None,
    ) -> None:
        """Do as `TorchPasses.update`."""
        base = None if following is None else following.base
        job, alive = self._job(step.w, step.alpha, step.gate, base, step.grads, step.price)
        for name, tensor in moments._asdict().items():
            setattr(job, name, tensor.data_ptr())
        job.first_key, job.second_key = _unsigned(step.keys)
        for prefix, rates in (("w", w_rates), ("alpha", alpha_rates)):
            for name, value in rates._asdict().items():
                setattr(job, f"{prefix}_{name}", float(value))
        job.beta1, job.beta2 = betas
        if following is not None:
            next_gate = following.gate.contiguous()
            alive.append(next_gate)
            job.next_gate = next_gate.data_ptr()
            job.next_first_key, job.next_second_key = _unsigned(following.keys)
        self._run("update" if following is None else "update_and_write", job, alive)

    def _job(self, w, alpha, gate, base=None, grads=None, price=None) -> tuple[_Job, list]:
        """Return a job with the addresses filled in, and what must stay alive as long as the job."""
        parameters = self.layout.parameters
        gate = gate.contiguous()
        job = _Job(low=self._concrete.low, high=self._concrete.high, w=w.data_ptr(), alpha=alpha.data_ptr())
        alive: list = [gate, self._pieces]
        job.gate = gate.data_ptr()
        for name, column in self._pieces.items():
            setattr(job, name, column.data_ptr())
        tables = {"theta": [p.data for p in parameters], "base": base or [p.data for p in parameters]}
        if grads is not None:
            tables["grad"] = [self._gradient(grad, p) for grad, p in zip(grads, parameters)]
            price = price.to(torch.float32).contiguous()
            job.price = price.data_ptr()
            alive.append(price)
        for name, tensors in tables.items():
            for tensor in tensors:
                if tensor.dtype != self._dtype or not tensor.is_contiguous() or tensor.device.type != "cpu":
                    raise RuntimeError(
                        f"a parameter changed its dtype, layout or device while its diff was trained: {name}"
                    )
            table = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
            setattr(job, name, ctypes.cast(table, ctypes.c_void_p))
            alive += [table, tensors]
        return job, alive

    def _gradient(self, grad: Tensor | None, parameter: Tensor) -> Tensor:
        if grad is not None:
            return grad.contiguous()
        if self._zeros is None or self._zeros.numel() < parameter.numel():
            self._zeros = torch.zeros(parameter.numel(), dtype=parameter.dtype)
        return self._zeros

    def _run(self, name: str, job: _Job, alive: list) -> None:
        function = getattr(self._library, f"{name}_{DTYPES[self._dtype]}")
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        bounds = self._shares(torch.get_num_threads())
        address = ctypes.addressof(job)
        first, *others = zip(bounds, bounds[1:])
        # ctypes lets go of Python's lock, so that threads run side by side
        threads = [threading.Thread(target=function, args=(address, *share)) for share in others]
        for thread in threads:
            thread.start()
        function(address, *first)
        for thread in threads:
            thread.join()

    def _shares(self, threads: int) -> list[int]:
        """Return the bounds of the pieces each thread takes, of about equally many elements."""
        if threads not in self._bounds:
            ends = self.layout.flat + self.layout.length
            wanted = torch.arange(1, threads) * self.layout.total // threads
            self._bounds[threads] = [0, *torch.searchsorted(ends, wanted).tolist(), self.layout.flat.numel()]
        return self._bounds[threads]


def passes_for(
    layout: FlatLayout, concrete: StretchedConcrete, dtype: torch.dtype, fused: bool | None
) -> NativePasses | TorchPasses:
    """Choose the passes for these parameters, w and alpha in `dtype`.

    Args:
        fused: None, fused passes where they can be had; False, never; True, or an error.

    Raises:
        RuntimeError: `fused=True` where there are none for this device, dtype or machine.
    """
    if fused is not False and NativePasses.can(layout, dtype):
        return NativePasses(layout, concrete)
    if fused is not False and layout.device.type == "cuda":
        return TorchPasses(layout, concrete, compiled=True)
    if fused:
        raise RuntimeError(
            "no fused passes here: they need float32 or bfloat16 parameters on a CPU with a C++ compiler, "
            "or a GPU"
        )
    return TorchPasses(layout, concrete)


def _unsigned(keys: Keys) -> tuple[int, int]:
    return keys[0] & 0xFFFFFFFF, keys[1] & 0xFFFFFFFF
