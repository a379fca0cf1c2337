"""Export every task as a small network: `python examples/export.py`. Takes some seconds and downloads nothing.

One network learns two tasks. `hat.export` makes a plain `torch.nn.Module` for each task: the module leaves out the
units that the task does not use, and gives the same answers. `torch.export` then writes one module to a file that runs
without this package.
"""

import tempfile
from pathlib import Path

import torch

import hat

torch.manual_seed(0)
stream = hat.data.permuted("digits", tasks=2, limit=100)
model = hat.HATModel(hat.models.mlp(64, hidden=(300, 300), dropout=0.2, input_dropout=0.0))
hat.Trainer(model, stream, hat.TrainConfig(epochs=8, momentum=0.9), progress=False).run()
model.eval()

print(f"the whole network: {sum(p.numel() for p in model.body.parameters()):,} parameters")
for task in range(2):
    images, labels = stream[task].test[:]
    small = hat.export(model, task=task)
    size = sum(p.numel() for p in small.parameters())
    same = (small(images).argmax(1) == model(images, task=task).argmax(1)).all()
    accuracy = (small(images).argmax(1) == labels).float().mean()
    print(
        f"task {task}: {size:,} parameters, units {small.units}, accuracy {accuracy:.1%}, as the model's: {bool(same)}"
    )

both = hat.export(model, tasks=[0, 1])  # one network for both tasks; the caller gives the task id
print(f"both: {sum(p.numel() for p in both.parameters()):,} parameters, logits {tuple(both(images, task=0).shape)}")

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "network.pt2"
    torch.export.save(torch.export.export(small, (images,)), file)
    change = (torch.export.load(file).module()(images) - small(images)).abs().max()
    print(f"written and read: {file.stat().st_size / 2**20:.2f} MiB, largest difference {change:g}")
