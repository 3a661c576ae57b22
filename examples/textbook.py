"""The textbook's LSTM, forward and back through time, and a gradient check by differences.

Run it as

    python examples/textbook.py
"""

import numpy as np

import polyrnn as pr

n_x, n_a, n_y, m, T_x = 3, 5, 2, 4, 7
rng = np.random.default_rng(1)
parameters = {f"W{gate}": rng.standard_normal((n_a, n_a + n_x)) for gate in "fico"}
parameters |= {f"b{gate}": rng.standard_normal((n_a, 1)) for gate in "fico"}
parameters |= {"Wy": rng.standard_normal((n_y, n_a)), "by": rng.standard_normal((n_y, 1))}
x, a0 = rng.standard_normal((n_x, m, T_x)), rng.standard_normal((n_a, m))
labels = rng.integers(0, n_y, (m, T_x))
truth = np.moveaxis(np.eye(n_y)[labels], -1, 0)  # (n_y, m, T_x), a column of the unit matrix for each label


def cost(parameters):
    """Cross-entropy of the predictions, summed over examples and steps."""
    _, y, _, _ = pr.lstm_forward(x, a0, parameters)
    return -np.sum(truth * np.log(y))


a, y, c, caches = pr.lstm_forward(x, a0, parameters)
grads = pr.lstm_backward(None, caches, dz=y - truth)  # softmax and cross-entropy together: dz = y - truth
print(f"a {a.shape}, y {y.shape}, c {c.shape}, cost {cost(parameters):.6f}")

h, worst = 1e-5, 0.0
for name, value in parameters.items():
    differences = np.empty_like(value)
    for index in np.ndindex(value.shape):
        moved = [value.copy(), value.copy()]
        moved[0][index] += h
        moved[1][index] -= h
        ahead, behind = (cost(parameters | {name: one}) for one in moved)
        differences[index] = (ahead - behind) / (2 * h)
    error = np.abs(grads[f"d{name}"] - differences).max() / np.abs(differences).max()
    worst = max(worst, error)
    print(f"d{name:3} {value.shape!s:7}  largest gradient {np.abs(differences).max():9.4f}  relative error {error:.1e}")
assert worst < 1e-7, "a gradient is wrong"
print("every gradient agrees with differences")
