"""The textbook's loops, RNN and LSTM, transcribed plainly: one product a gate and step, gradients summed step by step.

This is what notebooks run; the benchmark compares `polyrnn.lstm_forward`, `polyrnn.lstm_backward` and their likes with
it. It imports nothing from polyrnn.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e_x = np.exp(x - np.max(x))
    return e_x / e_x.sum(axis=0)


def lstm_cell_forward(xt, a_prev, c_prev, parameters):
    Wf, Wi, Wc, Wo, Wy = (parameters[name] for name in ("Wf", "Wi", "Wc", "Wo", "Wy"))
    concat = np.concatenate((a_prev, xt), axis=0)
    ft = sigmoid(np.dot(Wf, concat) + parameters["bf"])
    it = sigmoid(np.dot(Wi, concat) + parameters["bi"])
    cct = np.tanh(np.dot(Wc, concat) + parameters["bc"])
    c_next = ft * c_prev + it * cct
    ot = sigmoid(np.dot(Wo, concat) + parameters["bo"])
    a_next = ot * np.tanh(c_next)
    yt_pred = softmax(np.dot(Wy, a_next) + parameters["by"])
    return a_next, c_next, yt_pred, (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters)


def lstm_forward(x, a0, parameters):
    _, m, T_x = x.shape
    n_y, n_a = parameters["Wy"].shape
    a, c, y = (np.zeros((n, m, T_x), dtype=x.dtype) for n in (n_a, n_a, n_y))
    a_next, c_next, caches = a0, np.zeros_like(a0), []
    for t in range(T_x):
        a_next, c_next, yt, cache = lstm_cell_forward(x[:, :, t], a_next, c_next, parameters)
        a[:, :, t], c[:, :, t], y[:, :, t] = a_next, c_next, yt
        caches.append(cache)
    return a, y, c, (caches, x)


def lstm_cell_backward(da_next, dc_next, cache):
    _, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters = cache
    n_a = a_prev.shape[0]
    tanh_c = np.tanh(c_next)
    dc = dc_next + ot * (1 - tanh_c**2) * da_next
    dot = da_next * tanh_c * ot * (1 - ot)
    dcct = dc * it * (1 - cct**2)
    dit = dc * cct * it * (1 - it)
    dft = dc * c_prev * ft * (1 - ft)
    concat = np.concatenate((a_prev, xt), axis=0)
    grads, dconcat = {}, 0
    for gate, d in zip("fico", (dft, dit, dcct, dot), strict=True):
        grads[f"dW{gate}"] = np.dot(d, concat.T)
        grads[f"db{gate}"] = np.sum(d, axis=1, keepdims=True)
        dconcat = dconcat + np.dot(parameters[f"W{gate}"].T, d)
    return grads | {"dxt": dconcat[n_a:], "da_prev": dconcat[:n_a], "dc_prev": dc * ft}


def lstm_backward(da, caches):
    caches, x = caches
    n_a, m, T_x = da.shape
    dx = np.zeros_like(x)
    da_prev, dc_prev, total = np.zeros((n_a, m), da.dtype), np.zeros((n_a, m), da.dtype), {}
    for t in reversed(range(T_x)):
        grads = lstm_cell_backward(da[:, :, t] + da_prev, dc_prev, caches[t])
        dx[:, :, t], da_prev, dc_prev = grads.pop("dxt"), grads.pop("da_prev"), grads.pop("dc_prev")
        total = {name: total.get(name, 0) + value for name, value in grads.items()}
    return total | {"dx": dx, "da0": da_prev}


def rnn_cell_forward(xt, a_prev, parameters):
    a_next = np.tanh(np.dot(parameters["Wax"], xt) + np.dot(parameters["Waa"], a_prev) + parameters["ba"])
    yt_pred = softmax(np.dot(parameters["Wya"], a_next) + parameters["by"])
    return a_next, yt_pred, (a_next, a_prev, xt, parameters)


def rnn_forward(x, a0, parameters):
    _, m, T_x = x.shape
    n_y, n_a = parameters["Wya"].shape
    a, y = (np.zeros((n, m, T_x), dtype=x.dtype) for n in (n_a, n_y))
    a_next, caches = a0, []
    for t in range(T_x):
        a_next, yt, cache = rnn_cell_forward(x[:, :, t], a_next, parameters)
        a[:, :, t], y[:, :, t] = a_next, yt
        caches.append(cache)
    return a, y, (caches, x)


def rnn_cell_backward(da_next, cache):
    a_next, a_prev, xt, parameters = cache
    dtanh = (1 - a_next**2) * da_next
    grads = {"dWax": np.dot(dtanh, xt.T), "dWaa": np.dot(dtanh, a_prev.T), "dba": np.sum(dtanh, 1, keepdims=True)}
    return grads | {"dxt": np.dot(parameters["Wax"].T, dtanh), "da_prev": np.dot(parameters["Waa"].T, dtanh)}


def rnn_backward(da, caches):
    caches, x = caches
    n_a, m, T_x = da.shape
    dx, da_prev, total = np.zeros_like(x), np.zeros((n_a, m), da.dtype), {}
    for t in reversed(range(T_x)):
        grads = rnn_cell_backward(da[:, :, t] + da_prev, caches[t])
        dx[:, :, t], da_prev = grads.pop("dxt"), grads.pop("da_prev")
        total = {name: total.get(name, 0) + value for name, value in grads.items()}
    return total | {"dx": dx, "da0": da_prev}
