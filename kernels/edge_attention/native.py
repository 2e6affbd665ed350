"""Edge attention by the native CPU kernels."""

from __future__ import annotations


def forward(structure, relation, scale, inputs):
    raise NotImplementedError


def backward(structure, relation, scale, inputs, output, ct_values, ct_logsumexp):
    raise NotImplementedError
