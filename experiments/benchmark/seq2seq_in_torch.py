"""`cnn_jax.models.seq2seq` in torch: bidirectional gated encoder, additive attention.

torch's own GRU is another cell (its reset gate acts after the product), so the loops are written
out here too; weights have flax's names and shapes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cnn_jax.conventions import BEGIN, PAD


class Seq2Seq(nn.Module):
    """See `cnn_jax.models.seq2seq.Seq2Seq`, with its defaults.

    Args:
        source_size, target_size: numbers of tokens.
        embedding_size: length of a word's vector.
        hidden_size: length of a state.
        dropout_rate: of the words' vectors and the maxout layer.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        embedding_size: int,
        hidden_size: int,
        dropout_rate: float,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dropout = nn.Dropout(dropout_rate)
        units, annotation = hidden_size // 2, 2 * hidden_size
        self.encode = _weights(
            embedding=(source_size, embedding_size),
            **{
                f"{direction}_{name}": shape
                for direction in ("forward", "backward")
                for name, shape in {
                    "kernel": (embedding_size, 3 * hidden_size),
                    "bias": (3 * hidden_size,),
                    "gates": (hidden_size, 2 * hidden_size),
                    "candidate": (hidden_size, hidden_size),
                }.items()
            },
        )
        self.decode = _weights(
            embedding=(target_size, embedding_size),
            word=(embedding_size, 3 * hidden_size),
            context=(annotation, 3 * hidden_size),
            bias=(3 * hidden_size,),
            gates=(hidden_size, 2 * hidden_size),
            candidate=(hidden_size, hidden_size),
            output_state=(hidden_size, 2 * units),
            output_word=(embedding_size, 2 * units),
            output_context=(annotation, 2 * units),
            output_bias=(2 * units,),
            softmax=(units, target_size),
            softmax_bias=(target_size,),
            query=(hidden_size, hidden_size),
            key=(annotation, hidden_size),
            v=(hidden_size,),
            initial=(hidden_size, hidden_size),
            initial_bias=(hidden_size,),
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits [batch, time, words] of every target word given those before it."""
        mask = source != PAD
        words = self.dropout(nn.functional.embedding(source, self.encode["embedding"]))
        forward = self._along("forward", words, mask)
        backward = self._along("backward", words, mask)
        annotations = torch.cat([forward, backward], -1)
        w = self.decode
        keys = annotations @ w["key"]
        state = torch.tanh(backward[:, 0] @ w["initial"] + w["initial_bias"])
        begin = torch.full_like(target[:, :1], BEGIN)
        fed = torch.cat([begin, target[:, :-1]], 1)
        embedded = self.dropout(nn.functional.embedding(fed, w["embedding"]))
        inputs = embedded @ w["word"] + w["bias"]
        states, contexts = [], []
        for projected in inputs.unbind(1):
            scores = torch.tanh((state @ w["query"])[:, None] + keys) @ w["v"]
            alignment = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            context = (alignment[:, None] @ annotations)[:, 0]
            projected = torch.addmm(projected, context, w["context"])
            state = _gated_cell(state, projected, w["gates"], w["candidate"])
            states.append(state)
            contexts.append(context)
        pairs = (
            torch.stack(states, 1) @ w["output_state"]
            + embedded @ w["output_word"]
            + torch.stack(contexts, 1) @ w["output_context"]
            + w["output_bias"]
        )
        units = self.dropout(pairs.unflatten(-1, (-1, 2)).amax(-1))
        return units @ w["softmax"] + w["softmax_bias"]

    def _along(self, direction: str, words: Tensor, mask: Tensor) -> Tensor:
        """The states of one direction, zero on padding."""
        w = self.encode
        inputs = words @ w[f"{direction}_kernel"] + w[f"{direction}_bias"]
        gates, candidate = w[f"{direction}_gates"], w[f"{direction}_candidate"]
        state = words.new_zeros(len(words), self.hidden_size)
        steps = list(zip(inputs.unbind(1), mask[..., None].unbind(1), strict=True))
        states = []
        for projected, present in steps if direction == "forward" else reversed(steps):
            state = torch.where(present, _gated_cell(state, projected, gates, candidate), state)
            states.append(state)
        if direction == "backward":
            states.reverse()
        return torch.stack(states, 1) * mask[..., None]


def _weights(**shapes: Any) -> nn.ParameterDict:
    """Parameters of the given shapes; their scale does not change how long a step lasts."""
    return nn.ParameterDict(
        {name: nn.Parameter(0.05 * torch.randn(shape)) for name, shape in shapes.items()}
    )


def _gated_cell(state: Tensor, projected: Tensor, gates: Tensor, candidate: Tensor) -> Tensor:
    hidden = state.shape[-1]
    opened = torch.sigmoid(torch.addmm(projected[:, : 2 * hidden], state, gates))
    z, r = opened.chunk(2, -1)
    proposed = torch.tanh(torch.addmm(projected[:, 2 * hidden :], r * state, candidate))
    return torch.lerp(state, proposed, z)
