"""Writes torch_modules.safetensors, a module as PyTorch saves it, and torch_modules_results.safetensors, what it gives.

The first file is written by safetensors.torch.save_file from a state dict, with the names of a model that has
recurrent layers and cells at several depths. The second has for each of them "NAME/x", "NAME/h0", "NAME/y" and so on,
in float32.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
T, N, I = 7, 3, 5
torch.manual_seed(11)
torch.set_num_threads(1)


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(13, I)
        self.lstm = torch.nn.LSTM(I, 11, num_layers=2, bidirectional=True, batch_first=True)
        self.project = torch.nn.LSTM(I, 11, proj_size=3)


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.gru = torch.nn.GRU(I, 7, bias=False, bidirectional=True)
        self.relu = torch.nn.RNN(I, 7, nonlinearity="relu")
        self.decoder = torch.nn.ModuleList([torch.nn.LSTMCell(I, 7), torch.nn.GRUCell(I, 11), torch.nn.RNNCell(I, 3)])
        self.head = torch.nn.Linear(7, 2)


def main() -> None:
    model, results = Whole().eval(), {}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.RNNBase):
                directions = module.num_layers * (2 if module.bidirectional else 1)
                x = torch.randn((N, T, I) if module.batch_first else (T, N, I))
                sizes = [module.proj_size or module.hidden_size, module.hidden_size][
                    : 1 + isinstance(module, torch.nn.LSTM)
                ]
                state = tuple(0.5 * torch.randn(directions, N, size) for size in sizes)
                y, after = module(x, state if len(state) > 1 else state[0])
            elif isinstance(module, torch.nn.RNNCellBase):
                x = torch.randn(1, N, I)
                state = tuple(
                    torch.randn(1, N, module.hidden_size) for _ in range(1 + isinstance(module, torch.nn.LSTMCell))
                )
                inner = tuple(part[0] for part in state)
                after = module(x[0], inner if len(inner) > 1 else inner[0])
                after = tuple(p[None] for p in after) if isinstance(after, tuple) else after[None]
                y = after[0] if isinstance(after, tuple) else after
            else:
                continue
            after = after if isinstance(after, tuple) else (after,)
            arrays = {"x": x, "y": y}
            arrays |= {f"{part}0": a for part, a in zip("hc", state, strict=False)}
            arrays |= dict(zip("hc", after, strict=False))
            results |= {
                f"{name}/{key}": array.clone(memory_format=torch.contiguous_format) for key, array in arrays.items()
            }
    save_file(model.state_dict(), HERE / "torch_modules.safetensors")
    about = json.dumps({"torch": torch.__version__})
    save_file(results, HERE / "torch_modules_results.safetensors", {"about": about})


if __name__ == "__main__":
    main()
