"""A network grows when its units run out: `python examples/grow.py`. Takes some seconds and downloads nothing.

A small network learns pairs of digits, one pair after another. When the forecast says that the next pair does not fit,
the trainer adds free units. The next task finds room, and the logits of the finished tasks change by no more than a
rounding error.
"""

import torch

import hat
from hat.training import evaluate

torch.manual_seed(0)
stream = hat.data.split("digits", classes_per_task=2, limit=60)  # five tasks
# lamb=0: without a penalty, every task uses as many units as it likes.
config = hat.TrainConfig(epochs=10, batch_size=32, momentum=0.9, lamb=0.0)
model = hat.HATModel(hat.models.mlp(64, hidden=(10, 10), dropout=0.0, input_dropout=0.0))

trainer = hat.Trainer(model, stream, config, progress=False, grow="auto", verify=True)
history = trainer.run().history
for entry in history.growth:
    joined = ", ".join(f"{number} units join {name.removeprefix('gates.')}" for name, number in entry["units"].items())
    print(f"before task {entry['task']}: {joined}; logits change by {entry['change']:.1g}")
for task, accuracy in enumerate(history.accuracy[-1]):
    print(f"task {task}: {accuracy:.1%} (when it was learned: {history.accuracy[task][task]:.1%})")
print(f"largest drift of any logit since the last growth: {history.largest_drift:g}")

# The same by hand: ask for how many tasks the free units are enough, and add units to the layers of your choice.
print(hat.forecast(model))
before = evaluate(model, stream[0].test, 0, config).logits
print("joined:", hat.grow(model, {"gates.linear1": 8, "gates.linear2": 0.5}))  # 8 more units; 50 % more units
print(f"task 0 changes by {evaluate(model, stream[0].test, 0, config).drift_from(before):.1g}, a rounding")
