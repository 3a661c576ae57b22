"""What a public call adds to the core that it calls, on NumPy."""

import statistics
import time


def added_by_calls(calls: int = 2000) -> dict[str, float]:
    """Microseconds, by layer: the medians of both in turns, one less the other."""
    import numpy as np

    import polyrnn as pr
    from polyrnn import recurrence, stack

    result = {}
    for layer in (pr.RNN(3, 5), pr.LSTM(3, 5), pr.GRU(3, 5)):
        params, x = layer.init(seed=0, backend="numpy"), np.ones((1, 2, 3), "float32")
        state = tuple(np.ones((1, 2, 5), "float32") for _ in layer.cell.states)
        given = state if len(state) > 1 else state[0]
        backend, core = pr.backend("numpy"), stack._own(layer._plan.layers[0][0], params)
        inside, start = x.transpose(0, 2, 1), tuple(s[0].T for s in state)

        def public(layer=layer, params=params, x=x, given=given):
            return layer(params, x, given)

        def bare(backend=backend, layer=layer, core=core, inside=inside, start=start):
            return recurrence.forward(backend, recurrence.Options(layer.cell), core, inside, start, keep=False)

        times: dict[str, list[float]] = {"public": [], "bare": []}
        for _ in range(calls):
            for name, function in (("public", public), ("bare", bare)):
                begin = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - begin)
        result[type(layer).__name__] = 1e6 * (statistics.median(times["public"]) - statistics.median(times["bare"]))
    return result
