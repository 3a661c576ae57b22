"""Kernels for NumPy, compiled by Numba: packed weights, products in registers, all cores."""

from .kernels import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN"]
