"""Fits the rational function by which `polyrnn/kernels/_products.py` computes tanh in float32, and prints it.

tanh(x) = x P(x^2) / Q(x^2) on |x| <= CUT, beyond which tanh is 1 to within half an ulp: a least-squares fit of the
relative error, whose weights are raised where the error is large until all its peaks are about equal (C. L. Lawson's
method).

    python tests/stored/make_tanh.py
"""

import numpy as np

CUT, NUMERATOR, DENOMINATOR, ROUNDS, POINTS = 8.9, 4, 4, 60, 4000


def fit() -> tuple[np.ndarray, np.ndarray, float]:
    x = CUT * np.sin(np.pi * (np.arange(POINTS) + 0.5) / (2 * POINTS))
    v, f = (x / CUT) ** 2, np.tanh(x) / x
    powers = v[:, None] ** np.arange(max(NUMERATOR, DENOMINATOR) + 1)
    weight, q = np.ones(POINTS), np.ones(POINTS)
    for _ in range(ROUNDS):
        rows = weight / q / f
        columns = (powers[:, : NUMERATOR + 1], -powers[:, 1 : DENOMINATOR + 1] * f[:, None])
        found = np.linalg.lstsq(np.hstack(columns) * rows[:, None], f * rows, rcond=None)[0]
        p, q = powers[:, : NUMERATOR + 1] @ found[: NUMERATOR + 1], 1 + powers[:, 1:] @ found[NUMERATOR + 1 :]
        error = np.abs(p / q / f - 1)
        weight = weight * ((error / error.max()) ** 0.3 + 1e-3)
    scale = CUT ** (2.0 * np.arange(max(NUMERATOR, DENOMINATOR) + 1))
    return found[: NUMERATOR + 1] / scale, np.append(1, found[NUMERATOR + 1 :] / scale[1:]), error.max()


if __name__ == "__main__":
    numerator, denominator, worst = fit()
    print("P", *(f"{c:.9e}" for c in numerator.astype("float32")))
    print("Q", *(f"{c:.9e}" for c in denominator.astype("float32")))
    print(f"largest relative error {worst:.2e}")
