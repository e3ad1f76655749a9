"""Places weights and caches in memories, with causes: -ngl, -ot, -ncmoe, -ts, -sm, -mg, --no-kv-offload."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from graphsched.errors import OptionError
from graphsched.gguf.given import Given
from graphsched.graph.tensor import TensorType, layer_of
from graphsched.schedule.effects import EXPERTS, Home, layers_given, placed_by
from graphsched.schedule.options import PlacementOptions, listed
from graphsched.schedule.overrides import LONGEST_NAME, on_devices
from graphsched.types.devices import HOST

__all__ = ["HOST", "Home", "Placement", "PlacementOptions", "place"]

_OUTPUT: Final = re.compile(r"output(_norm\w*)?\.")


@dataclass(frozen=True)
class Placement:
    """Homes of all tensors, the device of each layer, the homes of the layers' caches, the output's device.

    given: what was asked for, with the tensors or layers that it placed. shares: those by which layers were shared out,
    () without devices.
    """

    homes: Mapping[str, Home]
    layers: tuple[str, ...]
    kv: tuple[Home, ...]
    output: str
    given: tuple[Given, ...] = ()
    shares: tuple[float, ...] = ()


def place(
    tensors: Mapping[str, TensorType],
    n_layer: int,
    devices: Sequence[str],
    options: PlacementOptions,
    default_shares: Sequence[float] = (),
) -> Placement:
    """Homes for a model's tensors, by what was asked for; `devices` in order of priority, without the host.

    default_shares: of the devices, where options have none; () for equal ones.
    """
    overrides = on_devices(options.overrides, devices)
    chosen = {n: found for n in tensors if (found := next((o for o in overrides if o.finds(n)), None))}
    given = placed_by(overrides, tensors, chosen)
    if not devices:
        host = Home(HOST, "no device")
        return Placement(dict.fromkeys(tensors, host), (HOST,) * n_layer, (host,) * n_layer, HOST, given)
    shares = _shares(options.tensor_split or tuple(default_shares), devices)
    *layers, output = _layer_devices(n_layer, devices, options, shares)
    experts = _host_experts(tensors, layers, options)
    homes = {
        name: Home(found.device, f"-ot {found.text}")
        if (found := chosen.get(name))
        else _by_layer(
            name[:LONGEST_NAME], layers, output if _is_output(name, tensors) else "", experts, options
        )
        for name in tensors
    }
    given = (*given, *layers_given(tensors, homes, options))
    kv = tuple(_kv_home(device, options) for device in layers)
    return Placement(homes, tuple(layers), kv, output, given, shares)


def _by_layer(
    name: str, layers: Sequence[str], output: str, experts: Mapping[int, str], options: PlacementOptions
) -> Home:
    layer = layer_of(name)
    if layer in experts and EXPERTS.fullmatch(name):
        return Home(HOST, experts[layer])
    if 0 <= layer < len(layers):
        return Home(layers[layer], options.layers_flag)
    if layer >= 0:
        return Home(HOST, f"layer {layer} of {len(layers)} is not computed")
    return Home(output, options.layers_flag) if output else Home(HOST, "input layer stays on the host")


def _is_output(name: str, tensors: Mapping[str, TensorType]) -> bool:
    """Whether a tensor is of the output; LFM2's files call their last norm as others do the first."""
    is_last = name == "token_embd_norm.weight" and "output_norm.weight" not in tensors
    return is_last or _OUTPUT.match(name) is not None


def _kv_home(device: str, options: PlacementOptions) -> Home:
    return Home(device, options.layers_flag) if options.kv_offload else Home(HOST, "--no-kv-offload")


def _layer_devices(
    n_layer: int, devices: Sequence[str], options: PlacementOptions, shares: Sequence[float]
) -> list[str]:
    """The device of each layer, the output counting as one more."""
    wanted = n_layer + 1 if options.n_gpu_layers < 0 else options.n_gpu_layers
    first, n = max(n_layer - wanted, 0), min(wanted, n_layer + 1)
    order = _device_numbers(n, devices, options, shares)
    return [devices[order[i - first]] if 0 <= i - first < n else HOST for i in range(n_layer + 1)]


def _device_numbers(
    n: int, devices: Sequence[str], options: PlacementOptions, shares: Sequence[float]
) -> Sequence[int]:
    """For each of n layers the number of its device: the first whose cumulated share exceeds i / n."""
    if options.main_gpu >= len(devices):
        needed = f"an integer from 0 to {len(devices) - 1} is needed"
        raise OptionError(f"is {options.main_gpu}, {needed}", "main_gpu")
    if options.split_mode == "none":
        return [options.main_gpu] * n
    # In float32 as llama.cpp does it, so that a layer at the border goes the same way.
    summed = np.array(list(accumulate(np.array(shares, np.float32))), np.float32)
    points = np.arange(n, dtype=np.float32) / np.float32(max(n, 1))
    found = np.searchsorted(summed / summed[-1], points, side="right")
    return [int(i) for i in found]


def _shares(given: Sequence[float], devices: Sequence[str]) -> tuple[float, ...]:
    """The share of each device, equal ones where nothing is said. OptionError for more, and if all have none."""
    shares = (*given, *(0.0,) * (len(devices) - len(given))) if given else (1.0,) * len(devices)
    if any(shares[len(devices) :]):
        there = f"there {'are' if len(devices) > 1 else 'is'} {', '.join(devices)}"
        raise OptionError(f"is {listed(given)}, shares of {len(given)} devices; {there}", "tensor_split")
    if not any(shares[: len(devices)]):
        raise OptionError(f"is {listed(given)}, with nothing for {', '.join(devices)}", "tensor_split")
    return shares[: len(devices)]


def _host_experts(
    tensors: Mapping[str, TensorType], layers: Sequence[str], options: PlacementOptions
) -> Mapping[int, str]:
    """The layers whose experts stay in host memory, with the flag that keeps them there."""
    moe = [i for i in range(len(layers)) if f"blk.{i}.ffn_down_exps.weight" in tensors]
    if options.cpu_moe:
        return dict.fromkeys(moe, "-cmoe")
    first = [i for i in moe if i < options.n_cpu_moe_first]
    last = _last_experts(moe, layers, options.n_cpu_moe)
    by_first = dict.fromkeys(first, f"-ncmoe-first {options.n_cpu_moe_first}")
    return dict.fromkeys(last, f"-ncmoe {options.n_cpu_moe}") | by_first


def _last_experts(moe: Sequence[int], layers: Sequence[str], n: int) -> Iterable[int]:
    """n of the layers with experts: the last of each device's, in proportion."""
    if n >= len(layers):
        return moe
    held = {d: [i for i in moe if layers[i] == d] for d in dict.fromkeys(layers) if d != HOST}
    ranges = list(held.values())
    total = sum(map(len, ranges))
    ends = [0, *accumulate(map(len, ranges))]
    quota = [(min(n, total) * end + total // 2) // max(total, 1) for end in ends]  # rounded, n in all
    return [i for r, (a, b) in zip(ranges, pairwise(quota), strict=True) for i in r[len(r) - (b - a) :]]
