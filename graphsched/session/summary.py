"""A model in one line: parameters, active parameters, bytes by type, cache per token, state per sequence."""

from collections import Counter
from typing import TYPE_CHECKING

from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Extent, is_state
from graphsched.session.options import SessionOptions
from graphsched.types.extents import N_KV_SWA

if TYPE_CHECKING:
    from graphsched.session.model import Model


def kv_bytes(graph: Graph) -> int:
    """Bytes of all caches."""
    return sum(leaf.type.nbytes for leaf in graph.leaves if leaf.kind == "cache")


def kv_bytes_per_token(graph: Graph) -> int:
    """Bytes of caches for each token of context; windows and recurrent state do not grow with it."""
    caches = [leaf.type for leaf in graph.leaves if leaf.kind == "cache" and not is_state(leaf)]
    growing = [type for type in caches if not _is_of_window(type.shape[0])]
    return sum(type.dtype.tensor_bytes((1, *type.shape[1:])) for type in growing)


def window_bytes(graph: Graph) -> tuple[int, int]:
    """Bytes of caches of layers with a window, and their cells; (0, 0) without."""
    windows = [leaf.type for leaf in graph.leaves if leaf.kind == "cache" and _is_of_window(leaf.shape[0])]
    return sum(type.nbytes for type in windows), int(windows[0].shape[0]) if windows else 0


def state_bytes_per_sequence(graph: Graph) -> int:
    """Bytes of the rows of recurrent state that a sequence has."""
    states = [leaf.type for leaf in graph.leaves if is_state(leaf)]
    return sum(type.nbytes // type.shape[0] for type in states)


def _is_of_window(n: int) -> bool:
    return isinstance(n, Extent) and n.word == N_KV_SWA


def parameters(model: "Model") -> tuple[int, int]:
    """Parameters of the file, and those that one token uses, which leaves out experts that are not chosen."""
    used, total = getattr(model.config, "n_expert_used", 0), getattr(model.config, "n_expert", 0)
    everything = active = 0
    for name in model.file.tensors:
        n = model.types[name].numel
        everything += n
        active += n * used // total if "_exps." in name and total else n
    return everything, active


def summary(model: "Model", options: SessionOptions) -> str:
    """Parameters, types and sizes of a model and its cache, in one line."""
    n, active = parameters(model)
    sizes: Counter[str] = Counter()
    for info in model.file.tensors.values():
        sizes[info.dtype.name] += info.nbytes
    types = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.most_common())
    graph = model.graph(1, 1, model.context(options), options)
    kv, (windows, cells) = kv_bytes_per_token(graph) / 1024, window_bytes(graph)
    fixed = f" + {windows / 1024:.1f} KiB for windows ({cells} cells)" if windows else ""
    if state := state_bytes_per_sequence(graph):
        fixed += f", recurrent state {state / 1024:.1f} KiB per sequence"
    of_them = f" ({_short(active)} active)" if active < n else ""
    return (
        f"{model.name}: {model.arch_name}, {_short(n)} parameters{of_them}, "
        f"{sum(sizes.values()) / 1e6:.1f} MB ({types}), KV cache {kv:.1f} KiB per token{fixed}"
    )


def _short(n: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= unit:
            return f"{n / unit:.2f}{name}"
    return str(n)
