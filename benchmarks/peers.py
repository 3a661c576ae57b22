"""Subjects of other libraries: PyTorch and ONNX Runtime."""

import numpy as np
from jobs import arrays, valid_lengths, weights
from workers import Prepared


class Torch:
    """PyTorch on the CPU. One step at a time is taken by its cells, which are faster at it than its layers."""

    packages = ("torch",)

    def __init__(self, threads):
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def prepare(self, job):
        torch = self.torch
        if job.way == "job":
            import train

            return train.with_torch()
        (x, dy), w = (torch.from_numpy(a) for a in arrays(job)), weights(job)
        if job.way == "stream":
            return self.stream(job, x, w)
        lengths = valid_lengths(job)
        layer = getattr(torch.nn, job.cell)(job.I, job.H, job.layers, bidirectional=job.bidirectional)
        layer = layer.to(x.dtype)
        layer.load_state_dict({name: torch.from_numpy(value) for name, value in w.items()})
        x.requires_grad_(job.way == "train")
        valid = None if lengths is None else torch.from_numpy(lengths.astype("int64"))
        pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence

        def forward():
            if valid is None:
                return layer(x)[0]
            return pad(layer(pack(x, valid, enforce_sorted=False))[0], total_length=job.T)[0]

        def inference():
            with torch.inference_mode():
                return forward()

        def both():
            layer.zero_grad()
            x.grad = None
            y = forward()
            y.backward(dy)
            return y

        def result(y):
            found = {"y": y.detach()}
            if job.way == "train":
                found |= {"dx": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
            return {name: value.numpy() for name, value in found.items()}

        return Prepared(both if job.way == "train" else inference, result)

    def stream(self, job, x, w):
        torch = self.torch
        cell = getattr(torch.nn, f"{job.cell}Cell")(job.I, job.H).to(x.dtype)
        cell.load_state_dict({name.removesuffix("_l0"): torch.from_numpy(value) for name, value in w.items()})
        inputs, state, count = list(x), None, 0

        def step():
            nonlocal state, count
            with torch.inference_mode():
                state = cell(inputs[count % job.T], state)
            count += 1
            return state[0] if job.cell == "LSTM" else state

        return Prepared(step, lambda y: {"y": y.numpy()})


# ONNX' order of PyTorch's blocks: i o f c of i f g o, z r h of r z n.
BLOCKS = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


class OnnxRuntime:
    """ONNX Runtime: forward alone, float32, one operator of the standard a layer."""

    packages = ("onnx", "onnxruntime")

    def __init__(self, threads):
        import onnx
        import onnxruntime

        self.onnx, self.runtime, self.threads = onnx, onnxruntime, threads

    def prepare(self, job):
        if job.way not in ("forward", "stream") or job.dtype != "float32":
            return None
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        model = self.model(job).SerializeToString()
        session = self.runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (x, _), lengths = arrays(job), valid_lengths(job)
        if job.way == "forward":
            feed = {"x": x} | ({} if lengths is None else {"lengths": lengths})
            return Prepared(lambda: session.run(["y"], feed)[0], lambda y: {"y": y})
        names, count = ["h", "c"] if job.cell == "LSTM" else ["h"], 0
        state = {name: np.zeros((1, job.N, job.H), job.dtype) for name in names}
        inputs = [x[t : t + 1] for t in range(job.T)]

        def step():
            nonlocal state, count
            found = session.run([f"{name}_next" for name in names], {"x": inputs[count % job.T], **state})
            state = dict(zip(names, found, strict=True))
            count += 1
            return found[0]

        return Prepared(step, lambda h: {"y": h[0]})

    def model(self, job):
        make, proto = self.onnx.helper, self.onnx.TensorProto
        w, D, stream = weights(job), 1 + job.bidirectional, job.way == "stream"
        blocks = BLOCKS[job.cell]

        def ordered(a):
            return np.concatenate([np.split(a, len(blocks))[k] for k in blocks])

        constants, nodes, at = {"flat": np.array([0, 0, -1], "int64")}, [], "x"
        for k in range(job.layers):
            suffixes = [f"_l{k}", f"_l{k}_reverse"][:D]
            for name, kind in (("W", "weight_ih"), ("R", "weight_hh")):
                constants[f"{name}{k}"] = np.stack([ordered(w[kind + s]) for s in suffixes])
            both = [np.concatenate([ordered(w["bias_ih" + s]), ordered(w["bias_hh" + s])]) for s in suffixes]
            constants[f"B{k}"] = np.stack(both)
            more = {"linear_before_reset": 1} if job.cell == "GRU" else {}
            inputs = [at, f"W{k}", f"R{k}", f"B{k}", "lengths" if job.lengths else ""]
            inputs += (["h", "c"] if job.cell == "LSTM" else ["h"]) if stream else []
            outputs = [f"Y{k}"] + (["h_next", "c_next"][: 1 + (job.cell == "LSTM")] if stream else [])
            direction = "bidirectional" if D == 2 else "forward"
            nodes.append(make.make_node(job.cell, inputs, outputs, hidden_size=job.H, direction=direction, **more))
            at = "y" if k == job.layers - 1 else f"y{k}"
            nodes.append(make.make_node("Transpose", [f"Y{k}"], [f"turned{k}"], perm=[0, 2, 1, 3]))  # (T, N, D, H)
            nodes.append(make.make_node("Reshape", [f"turned{k}", "flat"], [at]))
        T = 1 if stream else job.T
        given = [make.make_tensor_value_info("x", proto.FLOAT, [T, job.N, job.I])]
        given += [make.make_tensor_value_info("lengths", proto.INT32, [job.N])] if job.lengths else []
        state = [n for n in ("h", "c") if stream and (n == "h" or job.cell == "LSTM")]
        given += [make.make_tensor_value_info(n, proto.FLOAT, [1, job.N, job.H]) for n in state]
        made = [make.make_tensor_value_info("y", proto.FLOAT, [T, job.N, D * job.H])]
        made += [make.make_tensor_value_info(f"{n}_next", proto.FLOAT, [1, job.N, job.H]) for n in state]
        stored = [self.onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = make.make_graph(nodes, "recurrence", given, made, stored)
        return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)


SUBJECTS = {"torch": Torch, "onnxruntime": OnnxRuntime}
