"""A model: a file, the architecture that reads it, and the graphs they build."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from graphsched.arch import registry as arch
from graphsched.arch.config import Config, read_config
from graphsched.arch.inputs import Inputs
from graphsched.arch.registry import Architecture
from graphsched.arch.stored import StoredWeights, shares_output
from graphsched.arch.weights import Weights
from graphsched.errors import LoadError, ShapeError
from graphsched.gguf.given import unused
from graphsched.gguf.loader import ModelFile, open_model
from graphsched.gguf.override import Override
from graphsched.graph.graph import Graph
from graphsched.graph.rewrites.fewer_experts import choices, fewer_experts
from graphsched.graph.rewrites.rewrite import behind_layers, select_outputs, unfused_attention
from graphsched.graph.tensor import TensorType
from graphsched.session.batching import Batching, batching
from graphsched.session.options import SessionOptions
from graphsched.session.summary import summary
from graphsched.text.tokenizer import Tokenizer, check_vocabulary, from_metadata

DEFAULT_MODEL = Path(__file__).resolve().parents[1] / "data" / "stories.gguf"
DEFAULT_CONTEXT = 4096
Head = Literal["logits", "hidden"]  # what a graph computes


class Model:
    """A loaded model file; weights stay mapped."""

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.source = file.path.name
        self.arch_name = file.get("general.architecture", str)
        self.name = file.get("general.name", str, self.source)
        self.architecture: Architecture = arch.get(self.arch_name, self.source)
        self.config: Config = read_config(self.architecture.config, file, self.arch_name)
        self._asked: set[str] = set()  # names of tensors, by all graphs
        self.layers_asking: Mapping[str, int] = {}  # options of layers, by the last graph
        self.types = {t.name: TensorType(t.dtype, t.shape) for t in file.tensors.values()}
        self._check_layers()
        derive, config = self.architecture.derive, self.config
        self.derived = dict(derive(config, self._weights()) if derive else ())
        self.types |= {name: weight.type for name, weight in self.derived.items()}
        self.weights = StoredWeights(file, self.derived, shares_output(file))

    def _check_layers(self) -> None:
        layers = {n.split(".")[1] for n in self.types if n.startswith("blk.")}
        if self.config.n_layer > len(layers):
            key = f"{self.arch_name}.block_count"
            raise LoadError(
                f"{self.source}: key {key} is {self.config.n_layer}, the file has {len(layers)} layers"
            )

    def _weights(self) -> Weights:
        read = {name: type for name, type in self.types.items() if self.architecture.reads(name)}
        return Weights(read, self.source, n_layer=self.config.n_layer, asked=self._asked)

    @property
    def asked(self) -> frozenset[str]:
        """The names of tensors that the architecture has asked for so far, or asked whether they are there."""
        return frozenset(self._asked)

    @property
    def unread(self) -> tuple[str, ...]:
        """The tensors of the file that the architecture has not asked for in any graph so far."""
        read = {name for name in self._asked if self.architecture.reads(name)}
        return tuple(name for name in self.file.tensors if name not in read)

    @property
    def n_ctx_train(self) -> int:
        """Tokens of the context that the model was trained with; 0 if the file does not say."""
        return self.config.n_ctx_train

    @cached_property
    def n_vocab(self) -> int:
        """Rows of the embedding: valid token ids are below it."""
        return int(self._weights().sized("token_embd", None, None).shape[0])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the file, made on first use. LoadError if it has none, a bad or another model's one."""
        found = from_metadata(self.file.metadata, self.source)
        check_vocabulary(found, self.n_vocab, self.source)
        return found

    @cached_property
    def has_text(self) -> bool:
        """Whether the file says how text becomes tokens."""
        try:
            return bool(self.tokenizer)
        except LoadError:
            return False

    @property
    def first_token(self) -> int | None:
        """The id that a text begins with; None if the model wants none, or has no tokenizer."""
        return self.tokenizer.bos if self.has_text and self.tokenizer.add_bos else None

    @property
    def unused(self) -> str | None:
        """One line that names the overrides of metadata which nothing has read so far; None if there are none."""
        return unused(self.file.overrides())

    def context(self, options: SessionOptions) -> int:
        """Cells of the KV cache."""
        trained = self.n_ctx_train or DEFAULT_CONTEXT
        return (
            options.n_ctx
            if options.n_ctx > 0
            else trained
            if options.n_ctx == 0
            else min(trained, DEFAULT_CONTEXT)
        )

    def batching(self, options: SessionOptions) -> Batching:
        """How a session reads prompts."""
        return batching(options, self.context(options), self.n_ctx_train)

    def graph(
        self, n_tokens: int, n_outputs: int, n_kv: int, options: SessionOptions, head: Head = "logits"
    ) -> Graph:
        """The graph for given capacities: logits, or hidden states, of n_outputs rows.

        Hidden states are what is multiplied with the output matrix. Attention is one op unless `fa` is off.
        """
        o = options
        inputs = Inputs(
            n_tokens,
            n_outputs,
            n_kv,
            o.kv_types,
            o.mla,
            o.amb,
            max(o.n_ubatch, n_tokens),
            o.swa_full,
            o.n_parallel,
            o.n_checkpoints if o.checkpoint_every else 0,
        )
        try:
            logits = self.architecture.build(self.config, self._weights(), inputs)
            self.layers_asking = inputs.asked
            result = logits if head == "logits" else behind_layers(logits)
            graph = select_outputs(result, inputs.out_ids)
            graph = unfused_attention(graph, inputs.own) if "fa" in options.off else graph
            return fewer_experts(graph, *o.ser) if o.ser else graph
        except ShapeError as error:
            raise LoadError(f"{self.source}: {error}") from None

    def leaves_experts_out(self, options: SessionOptions) -> bool:
        """Whether -ser has an effect: some layer chooses more experts than it asks for, and not by groups."""
        plain = self.graph(1, 1, self.context(options), replace(options, ser=None))
        return options.ser is not None and bool(choices(plain, options.ser[0]))

    def summary(self, options: SessionOptions | None = None) -> str:
        """Name, architecture, parameters, bytes by type and cache per token in one line."""
        return summary(self, options or SessionOptions())


def open_default_or(
    path: str | Path | None, overrides: Sequence[Override] = (), *, header_only: bool = False
) -> Model:
    """The model at path, or the one that ships with graphsched; `overrides` take the place of its metadata.

    `header_only` takes a file without its weights.
    """
    file = DEFAULT_MODEL if path is None else path
    return Model(open_model(file, header_only=header_only, overrides=overrides))
