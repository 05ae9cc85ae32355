"""RNNsearch: a recurrent encoder, and a decoder that attends to its states.

Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate",
ICLR 2015, https://arxiv.org/abs/1409.0473: section 3 and appendix A. Without attention it is
RNNencdec (Cho et al. 2014, https://arxiv.org/abs/1406.1078), whose decoder sees only the encoder's
last state.

The decoder consists of pure functions of its weights, `attend`, `advance` and `readout`, written
for one sentence; leading axes are batches. Sentences are token indices that begin with the first
word and end with `END`. `PAD` fills them up and has no effect.

The lecture's worked example, three input vectors and two steps of the decoder
(`tests/models/test_seq2seq.py` computes it)::

    a = [.1, 0, 1]  b = [1, .1, 0]  c = [.2, .3, 1]
          |               |               |
          v               v               v
    0 -> h_1 ----------> h_2 ----------> h_3       h_j  = tanh(U x_j + W h_{j-1})
          |               |               |
          | k_i1          | k_i2          | k_i3   e_ij = v^T tanh(W_a s_{i-1} + U_a h_j)
          |               |               |        k_i  = softmax(e_i)
          +---------------+---------------+
                          |
                         c_i                       c_i  = k_i1 h_1 + k_i2 h_2 + k_i3 h_3
                          |
                          v                        r, z = sigmoid(W_{r, z} [s_{i-1}, E y, c_i])
    s_0 (0 or h_3) -> s_1 -> s_2                   s~   = tanh(W [r * s_{i-1}, E y, c_i])
                       ^      ^                    s_i  = (1 - z) s_{i-1} + z s~
                     E y_0  E y_1                  with y = y_{i-1}
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Float32, Int

from cnn_jax.conventions import BEGIN, PAD
from cnn_jax.errors import UserError
from cnn_jax.ops import attention, recurrent

EncoderName = Literal["tanh", "gru", "bigru"]
AttentionName = Literal["additive", "dot", "general", "none"]
InitialState = Literal["zeros", "last"]
Initialization = Literal["paper", "glorot"]

Weights = Mapping[str, Array]


class Memory(NamedTuple):
    """The source sentence as the decoder sees it.

    Attributes:
        annotations: ``h_j``, the encoder's state at each word, zero on padding.
        keys: the vector at each word that queries are compared with.
        mask: True where a position holds a word.
        summary: the encoder's last state.
    """

    annotations: Float[Array, "*batch time size"]
    keys: Float[Array, "*batch time key"]
    mask: Bool[Array, "*batch time"]
    summary: Float[Array, "*batch size"]


def attend(
    weights: Weights, kind: AttentionName, memory: Memory, state: Float[Array, "*batch hidden"]
) -> tuple[Float[Array, "*batch size"], Float32[Array, "*batch time"]]:
    """Compute the context ``c_i`` for the state ``s_{i-1}``, and every source position's weight.

    Without attention the context is the encoder's last state, and all weights are zero.
    """
    if kind == "none":
        return memory.summary, jnp.zeros(memory.mask.shape, jnp.float32)
    if kind == "additive":
        scores = attention.additive_scores(state @ weights["query"], memory.keys, weights["v"])
    else:
        scores = attention.dot_scores(state, memory.keys)
    alignment = attention.masked_softmax(scores, memory.mask)
    return attention.context(alignment, memory.annotations), alignment


def advance(
    weights: Weights,
    kind: AttentionName,
    memory: Memory,
    state: Float[Array, "*batch hidden"],
    word: Float[Array, "*batch embedding"],
) -> tuple[Array, Array, Array]:
    """Advance the decoder by one step: (s_i, c_i, attention weights) from s_{i-1} and E y_{i-1}.

    The cell is `cnn_jax.ops.recurrent.gated_cell` with the input [E y_{i-1}, c_i].
    """
    context, alignment = attend(weights, kind, memory, state)
    projected = _plus(word @ weights["word"] + context @ weights["context"], weights["bias"])
    state = recurrent.gated_cell(state, projected, weights["gates"], weights["candidate"])
    return state, context, alignment


def deep_output(
    weights: Weights,
    state: Float[Array, "*batch hidden"],
    word: Float[Array, "*batch embedding"],
    context: Float[Array, "*batch size"],
) -> Float[Array, "*batch units"]:
    """The maxima of neighbouring pairs of ``U_o s_i + V_o E y_{i-1} + C_o c_i`` (appendix A.2.2).

    The appendix writes s_{i-1} where the paper's equation 4 has s_i; the function follows equation
    4.
    """
    pairs = (
        state @ weights["output_state"]
        + word @ weights["output_word"]
        + context @ weights["output_context"]
    )
    pairs = _plus(pairs, weights["output_bias"])
    return jnp.max(pairs.reshape(*pairs.shape[:-1], -1, 2), axis=-1)


def readout(weights: Weights, units: Float[Array, "*batch units"]) -> Float32[Array, "*batch v"]:
    """Compute the logits of the next word from the deep output."""
    # As one matrix: XLA's CPU backend transposes products of more axes in the backward pass.
    rows = units.reshape(-1, units.shape[-1])
    logits = _plus(rows @ weights["softmax"], weights["softmax_bias"])
    return logits.reshape(*units.shape[:-1], -1).astype(jnp.float32)


class Encoder(nn.Module):
    """A recurrent network along the source sentence.

    Attributes:
        vocabulary_size: number of source tokens.
        embedding_size: length of a word's vector.
        hidden_size: length of a state, in each direction.
        kind: the simple recurrence (`tanh`), the gated one (`gru`), or the gated one in both
            directions (`bigru`).
        dropout_rate: dropout rate of the words' vectors.
        initialization: see `Seq2Seq`.
        dtype: type of the computation.
    """

    vocabulary_size: int
    embedding_size: int
    hidden_size: int
    kind: EncoderName
    dropout_rate: float
    initialization: Initialization
    dtype: Dtype

    @nn.compact
    def __call__(
        self, source: Int[Array, "*batch time"], train: bool = False
    ) -> tuple[Float[Array, "*batch time size"], Float[Array, "*batch size"]]:
        """Compute the annotations, zero on padding, and the last state.

        The last state of the backward direction is the one at the first word.
        """
        kernel_init, embedding_init = _initializers(self.initialization)
        shape = (self.vocabulary_size, self.embedding_size)
        embedding = self.param("embedding", embedding_init, shape, jnp.float32)
        words = jnp.take(embedding.astype(self.dtype), source, axis=0)
        words = nn.Dropout(self.dropout_rate, deterministic=not train)(words)
        hidden, mask = self.hidden_size, source != PAD
        start = jnp.zeros((*source.shape[:-1], hidden), self.dtype)

        def along(direction: str, reverse: bool = False) -> tuple[Array, Array]:
            blocks = 1 if self.kind == "tanh" else 3
            inputs = nn.Dense(
                blocks * hidden, dtype=self.dtype, kernel_init=kernel_init, name=direction
            )(words)
            names = ("state",) if self.kind == "tanh" else ("gates", "candidate")
            kernels = [
                self.param(
                    f"{direction}_{name}",
                    orthogonal_blocks,
                    (hidden, (2 if name == "gates" else 1) * hidden),
                    jnp.float32,
                ).astype(self.dtype)
                for name in names
            ]
            cell = recurrent.tanh_cell if self.kind == "tanh" else recurrent.gated_cell
            return recurrent.run(lambda s, x: cell(s, x, *kernels), start, inputs, mask, reverse)

        last, states = along("forward")
        if self.kind == "bigru":
            backward_last, backward_states = along("backward", reverse=True)
            last = jnp.concatenate([last, backward_last], -1)
            states = jnp.concatenate([states, backward_states], -1)
        return states, last


class Decoder(nn.Module):
    """A gated recurrent network that attends to the source sentence before each word.

    Attributes:
        vocabulary_size: number of target tokens.
        embedding_size: length of a word's vector.
        hidden_size: length of a state.
        annotation_size: length of the encoder's annotations.
        attention: comparison of a state with an annotation.
        attention_size: length of the vectors that additive attention compares.
        initial_state: see `Seq2Seq`.
        output_size: number of units of the maxout layer.
        dropout_rate: dropout rate of the words' vectors and of the maxout layer.
        initialization: see `Seq2Seq`.
        dtype: type of the computation; scores, attention weights and logits are float32.
    """

    vocabulary_size: int
    embedding_size: int
    hidden_size: int
    annotation_size: int
    attention: AttentionName
    attention_size: int
    initial_state: InitialState
    output_size: int
    dropout_rate: float
    initialization: Initialization
    dtype: Dtype

    def setup(self) -> None:
        kernel, embedding = _initializers(self.initialization)
        zeros = nn.initializers.zeros_init()
        words, size = self.embedding_size, self.embedding_size
        hidden, annotation = self.hidden_size, self.annotation_size
        units = 2 * self.output_size
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "embedding": (embedding, (self.vocabulary_size, size)),
            "word": (kernel, (words, 3 * hidden)),
            "context": (kernel, (annotation, 3 * hidden)),
            "bias": (zeros, (3 * hidden,)),
            "gates": (orthogonal_blocks, (hidden, 2 * hidden)),
            "candidate": (orthogonal_blocks, (hidden, hidden)),
            "output_state": (kernel, (hidden, units)),
            "output_word": (kernel, (words, units)),
            "output_context": (kernel, (annotation, units)),
            "output_bias": (zeros, (units,)),
            "softmax": (kernel, (self.output_size, self.vocabulary_size)),
            "softmax_bias": (zeros, (self.vocabulary_size,)),
        }
        if self.attention == "additive":
            # Appendix B.1: alignment starts almost even, from N(0, 0.001^2) and v = 0.
            paper = self.initialization == "paper"
            compared = nn.initializers.normal(0.001) if paper else kernel
            v = zeros if paper else nn.initializers.normal(self.attention_size**-0.5)
            shapes["query"] = (compared, (hidden, self.attention_size))
            shapes["key"] = (compared, (annotation, self.attention_size))
            shapes["v"] = (v, (self.attention_size,))
        elif self.attention == "general":
            shapes["key"] = (kernel, (annotation, hidden))
        if self.projects_initial_state:
            shapes["initial"] = (kernel, (hidden, hidden))
            shapes["initial_bias"] = (zeros, (hidden,))
        self.weights = {
            name: self.param(name, init, shape, jnp.float32)
            for name, (init, shape) in shapes.items()
        }
        self.dropout = nn.Dropout(self.dropout_rate)

    @property
    def projects_initial_state(self) -> bool:
        """True if the encoder's last state, of two directions, passes a layer first."""
        return self.initial_state == "last" and self.annotation_size != self.hidden_size

    def remember(
        self,
        annotations: Float[Array, "*batch time size"],
        last: Float[Array, "*batch size"],
        mask: Bool[Array, "*batch time"],
    ) -> tuple[Memory, Float[Array, "*batch hidden"]]:
        """Compute the memory, which all steps share, and the state before the first step."""
        weights = self._cast()
        keys = annotations @ weights["key"] if "key" in weights else annotations
        if self.initial_state == "zeros":
            state = jnp.zeros((*last.shape[:-1], self.hidden_size), self.dtype)
        elif self.projects_initial_state:
            # Appendix A.2.2: from the backward direction, whose last word is the first.
            backward = last[..., -self.hidden_size :]
            state = jnp.tanh(_plus(backward @ weights["initial"], weights["initial_bias"]))
        else:
            state = last
        return Memory(annotations, keys, mask, last), state

    def step(
        self, memory: Memory, state: Float[Array, "*batch hidden"], word: Int[Array, "*batch"]
    ) -> tuple[Array, Array, Array]:
        """Advance by one word: (next state, logits of the next word, attention weights)."""
        weights = self._cast()
        embedded = jnp.take(weights["embedding"], word, axis=0)
        state, context, alignment = advance(weights, self.attention, memory, state, embedded)
        return state, readout(weights, deep_output(weights, state, embedded, context)), alignment

    def __call__(
        self,
        memory: Memory,
        state: Float[Array, "*batch hidden"],
        words: Int[Array, "*batch time"],
        coins: Bool[Array, "*batch time"] | None = None,
        train: bool = False,
    ) -> tuple[Array, Array, Array]:
        """Compute logits, attention weights and states at each of the given words.

        Args:
            memory, state: results of `remember`.
            words: input of each step: `BEGIN` and the true words but the last.
            coins: True where the decoder reads its own most probable word instead (scheduled
                sampling, Bengio et al. 2015); the first position does not count.
            train: True applies dropout.
        """
        weights = self._cast()
        # As masks, so that a word that only the loop knows can be dropped out too.
        ones = jnp.ones((*words.shape, self.embedding_size), self.dtype)
        word_mask = self.dropout(ones, deterministic=not train)
        ones = jnp.ones((*words.shape, self.output_size), self.dtype)
        unit_mask = self.dropout(ones, deterministic=not train)

        def embed(word: Array, dropped: Array) -> Array:
            return jnp.take(weights["embedding"], word, axis=0) * dropped

        def forced(state: Array, embedded: Array) -> tuple[Array, Any]:
            new = advance(weights, self.attention, memory, state, embedded)
            return new[0], new

        def sampled(carry: tuple[Array, Array], at: Any) -> tuple[Any, Any]:
            state, guess = carry
            word, coin, dropped_word, dropped_units = at
            embedded = embed(jnp.where(coin, guess, word), dropped_word)
            state, context, alignment = advance(weights, self.attention, memory, state, embedded)
            units = deep_output(weights, state, embedded, context) * dropped_units
            logits = readout(weights, units)
            return (state, jnp.argmax(logits, -1)), (state, logits, alignment)

        if coins is None:
            embedded = embed(words, word_mask)
            _, outputs = jax.lax.scan(forced, state, _time_first(embedded))
            states, contexts, alignment = map(_time_second, outputs)
            units = deep_output(weights, states, embedded, contexts) * unit_mask
            return readout(weights, units), alignment, states
        along = (jnp.moveaxis(words, -1, 0), jnp.moveaxis(coins, -1, 0))
        along = (*along, _time_first(word_mask), _time_first(unit_mask))
        _, outputs = jax.lax.scan(sampled, (state, words[..., 0]), along)
        states, logits, alignment = map(_time_second, outputs)
        return logits, alignment, states

    def _cast(self) -> Weights:
        return {name: weight.astype(self.dtype) for name, weight in self.weights.items()}


class Seq2Seq(nn.Module):
    """A translator: encoder and decoder.

    Attributes:
        source_size, target_size: numbers of tokens.
        embedding_size: length of a word's vector.
        hidden_size: length of a state; the bidirectional encoder has two.
        encoder: `tanh` is ``h_j = tanh(U x_j + W h_{j-1})``.
        attention: `additive` (Bahdanau et al.), `dot` and `general` (Luong et al.), or `none`.
        attention_size: length of the vectors that additive attention compares; None for the hidden
            size.
        initial_state: the decoder's first state: zeros, or the encoder's last state. With a
            bidirectional encoder the latter is ``tanh(W_s h)`` of the backward direction's state at
            the first word.
        output_size: number of units of the maxout layer; None for half the hidden size.
        dropout_rate: dropout rate of the words' vectors and of the maxout layer.
        initialization: `paper` (appendix B.1: N(0, 0.01^2), alignment N(0, 0.001^2)) or `glorot`;
            recurrent matrices are orthogonal in both.
        dtype: type of the computation.

    Raises:
        UserError: dot attention between vectors of different lengths.
    """

    source_size: int
    target_size: int
    embedding_size: int = 128
    hidden_size: int = 128
    encoder: EncoderName = "bigru"
    attention: AttentionName = "additive"
    attention_size: int | None = None
    initial_state: InitialState = "last"
    output_size: int | None = None
    dropout_rate: float = 0.0
    initialization: Initialization = "glorot"
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        annotation_size = (2 if self.encoder == "bigru" else 1) * self.hidden_size
        if self.attention == "dot" and annotation_size != self.hidden_size:
            raise UserError(
                f"attention dot: compares the decoder's {self.hidden_size} numbers with the "
                f"bidirectional encoder's {annotation_size}; use general, or encoder gru"
            )
        common = {
            "embedding_size": self.embedding_size,
            "hidden_size": self.hidden_size,
            "dropout_rate": self.dropout_rate,
            "initialization": self.initialization,
            "dtype": self.dtype,
        }
        self.encode = Encoder(vocabulary_size=self.source_size, kind=self.encoder, **common)
        self.decode = Decoder(
            vocabulary_size=self.target_size,
            annotation_size=annotation_size,
            attention=self.attention,
            attention_size=self.attention_size or self.hidden_size,
            initial_state=self.initial_state,
            output_size=self.output_size or max(1, self.hidden_size // 2),
            **common,
        )

    def __call__(
        self,
        source: Int[Array, "*batch source_time"],
        target: Int[Array, "*batch target_time"],
        coins: Bool[Array, "*batch target_time"] | None = None,
        train: bool = False,
    ) -> tuple[Float32[Array, "*batch target_time words"], dict[str, Array]]:
        """Compute the logits of every target word given the words before it.

        Args:
            source, target: padded sentences that end with `END`.
            coins: see `Decoder`.
            train: True applies dropout.

        Returns:
            The logits, and by name the `attention_weights` [target_time, source_time], the
            `annotations` and the decoder's `states`.
        """
        memory, state = self.read(source, train)
        begin = jnp.full((*target.shape[:-1], 1), BEGIN, target.dtype)
        words = jnp.concatenate([begin, target[..., :-1]], -1)
        logits, alignment, states = self.decode(memory, state, words, coins, train)
        features = {
            "attention_weights": alignment,
            "annotations": memory.annotations,
            "states": states,
        }
        return logits, features

    def read(
        self, source: Int[Array, "*batch time"], train: bool = False
    ) -> tuple[Memory, Float[Array, "*batch hidden"]]:
        """Compute the memory of a source sentence, and the decoder's first state."""
        annotations, last = self.encode(source, train)
        return self.decode.remember(annotations, last, source != PAD)

    def step(
        self, memory: Memory, state: Float[Array, "*batch hidden"], word: Int[Array, "*batch"]
    ) -> tuple[Array, Array, Array]:
        """Advance by one word: (next state, logits of the next word, attention weights)."""
        return self.decode.step(memory, state, word)


def orthogonal_blocks(key: Any, shape: tuple[int, int], dtype: Dtype = jnp.float32) -> Array:
    """Initialise square orthogonal matrices side by side."""
    rows, columns = shape
    orthogonal = nn.initializers.orthogonal()
    keys = jax.random.split(key, columns // rows)
    return jnp.concatenate([orthogonal(k, (rows, rows), dtype) for k in keys], axis=-1)


def _initializers(name: Initialization) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """The initialisers of kernels, and of words' vectors."""
    if name == "paper":
        return nn.initializers.normal(0.01), nn.initializers.normal(0.01)
    words = nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    return nn.initializers.glorot_uniform(), words


def _plus(x: Float[Array, "*batch size"], bias: Float[Array, " size"]) -> Array:
    return x + jnp.broadcast_to(bias, x.shape)


def _time_first(x: Float[Array, "*batch time size"]) -> Array:
    return jnp.moveaxis(x, -2, 0)


def _time_second(x: Float[Array, "time *batch size"]) -> Array:
    return jnp.moveaxis(x, 0, -2)
