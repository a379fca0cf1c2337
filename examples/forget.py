"""Remove a task without a trace: `python examples/forget.py`. Takes some seconds and downloads nothing.

The network learns three tasks, then forgets the second task. Weights that only the second task has trained get new
random values. The units that only the second task used are free for the next task. The answers of the other two tasks
keep every bit.
"""

import torch

import hat
from hat.training import evaluate

torch.manual_seed(0)
stream = hat.data.split("digits", classes_per_task=3, tasks=3, limit=60)
config = hat.TrainConfig(epochs=10, batch_size=32, momentum=0.9, lamb=0.3)
model = hat.HATModel(hat.models.mlp(64, hidden=(60, 60), dropout=0.0, input_dropout=0.0))
hat.Trainer(model, stream, config, progress=False).run()


def accuracy(task):
    return evaluate(model, stream[task].test, task, config).accuracy


probes = hat.Probes()
for task in range(3):
    print(f"task {task}: {accuracy(task):.1%}")
    images, _ = next(iter(stream[task].test.batches(batch_size=50)))
    probes.add(model, task, images)

used = model.capacity()
hat.forget(model, 1)
for name, share in model.capacity().items():
    print(f"{name}: {used[name]:.0%} of the units used before, {share:.0%} now")
print("the others:", hat.verify(model, probes))
print("tasks that are left:", model.remembered)
try:
    accuracy(1)
except ValueError as error:
    print("task 1:", error)
