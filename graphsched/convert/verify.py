"""Whether a file that is to be written can be run: its header is read as `run` reads it, and a graph is built."""

from collections.abc import Mapping
from typing import Final

from graphsched.errors import LoadError
from graphsched.gguf.format import MetaValue, shown
from graphsched.gguf.loader import model_of_header
from graphsched.gguf.write import encode_header
from graphsched.types.shapes import TensorType

_N_KV: Final = 256  # cells; any number will do


def check_runs(keys: Mapping[str, MetaValue], types: Mapping[str, TensorType], where: str) -> None:
    """LoadError for what `run` would refuse, and for a tensor that the architecture never reads.

    `where` is what errors call the checkpoint.
    """
    # The session's layers are above this one in the tree of imports of all other commands.
    from graphsched.session.model import Model
    from graphsched.session.options import SessionOptions

    with model_of_header(encode_header(keys, types), where) as file:
        model = Model(file)
        graph = model.graph(1, 1, _N_KV, SessionOptions())
        sources = (s for weight in model.derived.values() for s in weight.sources)
        read = {leaf.name for leaf in (*graph.leaves, *sources)}
        assert model.tokenizer.n_vocab > 0
    unread = [name for name in types if name not in read]
    if unread:
        more = f" and {len(unread) - 1} more" if unread[1:] else ""
        arch = keys["general.architecture"]
        raise LoadError(
            f"{where}: {shown(unread[0])}{more} would be left out, {arch} models have no such tensor"
        )
