"""Small networks with one idea each, which `hat.convert` must convert: name -> (module, example)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 3
NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {}


class Net(nn.Module):
    """A module made of named parts and a forward function."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)
        self.does = forward

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.does(self, *inputs)


def network(make):
    """Register a network under its name, with parameters that differ from the first values of layers."""

    def made():
        torch.manual_seed(len(make.__name__))
        module, *shapes = make()
        module = module.double()
        with torch.no_grad():
            for name, values in [*module.named_parameters(), *module.named_buffers()]:
                if name.endswith("running_var"):
                    values.uniform_(0.5, 2)
                elif values.is_floating_point() and not name.startswith("constant"):
                    values.copy_(0.5 * torch.randn_like(values) + (name.endswith("norm.weight")))
        return module.eval(), tuple(s if isinstance(s, Tensor) else torch.randn(BATCH, *s).double() for s in shapes)

    NETWORKS[make.__name__] = made
    return made


def words(length=5, count=11):
    return torch.randint(count, (BATCH, length))


def parameter(*shape):
    return nn.Parameter(torch.empty(*shape))


IMAGE = (2, 6, 6)
FLAT = (5,)
TOKENS = (4, 6)  # positions, width


def mlp_around(width, out, *middle):
    return nn.Sequential(nn.Linear(5, width), *middle, nn.Linear(out, 4))


def convnet_around(*middle, inputs=4, outputs=4, last=3):
    return nn.Sequential(nn.Conv2d(2, inputs, 3), *middle, nn.Conv2d(outputs, 5, last), nn.ReLU(), nn.Flatten())


# ---------------------------------------------------------------- flat


@network
def mlp():
    return mlp_around(7, 6, nn.ReLU(), nn.Dropout(0.2), nn.Linear(7, 6), nn.GELU()), FLAT


@network
def activations():
    kinds = (nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.LeakyReLU(0.2), nn.Softplus(), nn.ELU(), nn.Hardswish(), nn.Mish())
    return nn.Sequential(nn.Linear(5, 6), *(part for kind in kinds for part in (kind, nn.Linear(6, 6)))), FLAT


@network
def residual():
    def forward(self, x):
        x = self.stem(x)
        x = x + self.down(F.relu(self.up(x)))
        return self.last(F.relu(x + self.other(x)))

    parts = {"stem": nn.Linear(5, 6), "up": nn.Linear(6, 7), "down": nn.Linear(7, 6), "other": nn.Linear(6, 6)}
    return Net(forward, **parts, last=nn.Linear(6, 4)), FLAT


@network
def concatenation():
    def forward(self, x):
        one, two = F.relu(self.one(x)), torch.tanh(self.two(x))
        both = torch.cat([one, two], -1)
        return self.last(torch.cat([self.middle(both).relu(), two, both], 1))

    parts = {"one": nn.Linear(5, 4), "two": nn.Linear(5, 3), "middle": nn.Linear(7, 5)}
    return Net(forward, **parts, last=nn.Linear(15, 4)), FLAT


@network
def concatenation_with_inputs():
    """Some inputs of the last layer are inputs of the network, which no task can switch off."""

    def forward(self, x):
        return self.last(torch.cat([x, F.relu(self.one(x)), x * 2], -1))

    return Net(forward, one=nn.Linear(5, 4), last=nn.Linear(14, 4)), FLAT


@network
def units_beside_inputs_times_a_switch():
    """The product with the inputs is 0 only if the product itself is gated."""

    def forward(self, x):
        hidden = F.relu(self.one(x))
        wide = torch.cat([hidden, x], -1)
        return self.last(wide * torch.sigmoid(self.switch(hidden)))

    return Net(forward, one=nn.Linear(5, 4), switch=nn.Linear(4, 9), last=nn.Linear(9, 4)), FLAT


@network
def sum_with_inputs():
    def forward(self, x):
        return self.last(F.gelu(self.one(x) + x))

    return Net(forward, one=nn.Linear(5, 5), last=nn.Linear(5, 4)), FLAT


@network
def gated_sum_with_inputs():
    def forward(self, x):
        hidden = self.one(x)
        return self.last(hidden * 2 + x) + self.other(hidden)

    return Net(forward, one=nn.Linear(5, 5), last=nn.Linear(5, 4), other=nn.Linear(5, 4)), FLAT


@network
def switches():
    """A gated linear unit, by hand and as a function, from one layer."""

    def forward(self, x):
        a, b = self.one(x).chunk(2, -1)
        x = a * torch.sigmoid(b)
        return self.last(F.glu(self.two(x), -1))

    return Net(forward, one=nn.Linear(5, 8), two=nn.Linear(4, 6), last=nn.Linear(3, 4)), FLAT


@network
def swiglu():
    def forward(self, x):
        return self.last(F.silu(self.one(x)) * self.two(x))

    return Net(forward, one=nn.Linear(5, 6), two=nn.Linear(5, 6), last=nn.Linear(6, 4)), FLAT


@network
def split_and_swapped():
    def forward(self, x):
        a, b, c = self.one(x).split([2, 3, 2], 1)
        return self.last(torch.cat([c, b.flip(1), a.roll(1, 1)], 1)) + self.two(a)

    return Net(forward, one=nn.Linear(5, 7), last=nn.Linear(7, 4), two=nn.Linear(2, 4)), FLAT


@network
def called_twice():
    def forward(self, x):
        x = F.relu(self.one(x))
        x = F.relu(self.again(x))
        return self.last(F.relu(self.again(x)))

    return Net(forward, one=nn.Linear(5, 6), again=nn.Linear(6, 6), last=nn.Linear(6, 4)), FLAT


@network
def called_twice_on_others():
    """The first call of the layer reads the inputs, which no task can switch off."""

    def forward(self, x):
        return self.last(F.relu(self.again(torch.tanh(self.again(x)))))

    return Net(forward, again=nn.Linear(5, 5), last=nn.Linear(5, 4)), FLAT


@network
def one_weight_in_two_layers():
    one, two = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
    two.weight = one.weight
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), one, nn.ReLU(), two, nn.Tanh(), nn.Linear(6, 4)), FLAT


@network
def scales():
    def forward(self, x):
        x = F.relu(self.one(x)) * self.scale + self.shift
        return self.last(x / self.single.exp())

    parts = {"scale": parameter(6), "shift": parameter(1, 6), "single": parameter(1)}
    return Net(forward, one=nn.Linear(5, 6), last=nn.Linear(6, 4), **parts), FLAT


@network
def unknown_function():
    def forward(self, x):
        x = torch.cumsum(F.relu(self.one(x)), 1)
        return self.last(F.relu(self.two(torch.sort(x, 1).values)))

    return Net(forward, one=nn.Linear(5, 6), two=nn.Linear(6, 7), last=nn.Linear(7, 4)), FLAT


@network
def moments():
    """Sums over units, of all of them and of some."""

    def forward(self, x):
        x = torch.tanh(self.one(x))
        x = torch.cat([x.mean(1, keepdim=True), x[:, :3].amax(1, keepdim=True), x.norm(2, 1, keepdim=True)], 1)
        return self.last(x)

    return Net(forward, one=nn.Linear(5, 6), last=nn.Linear(3, 4)), FLAT


@network
def norms_of_a_square():
    """Norms over units. The first argument of `norm` is not a dimension."""

    def forward(self, x):
        x = self.one(x)  # [B, 5, 5, 5]
        return self.last(torch.cat([x.norm(2, 1, keepdim=True), x.var((2, 3), keepdim=True).expand_as(x)], 1))

    return Net(forward, one=nn.Conv2d(2, 5, 2), last=nn.Conv2d(6, 3, 5)), IMAGE


@network
def sorted_units():
    """The places of the units depend on the input."""

    def forward(self, x):
        hidden = F.relu(self.one(x))
        order = x[0].argsort()
        return self.last(hidden[:, order])

    return Net(forward, one=nn.Linear(5, 5), last=nn.Linear(5, 4)), FLAT


@network
def one_hot_rows():
    """The positions of tokens depend on the input."""

    def forward(self, x):
        x = torch.relu(self.one(x))
        here = x.mean(2).argmax(1)
        return self.last(x[torch.arange(x.shape[0]), here])

    return Net(forward, one=nn.Linear(6, 5), last=nn.Linear(5, 4)), TOKENS


@network
def switched_off_by_hand():
    def forward(self, x):
        hidden = self.one(x)
        hidden = hidden.masked_fill(hidden < 0, 0.0)
        hidden = torch.where(self.constant_mask, self.two(hidden), -1.0)
        return self.last(hidden.clamp(0.1, 2.0))

    mask = torch.arange(6) % 2 == 0
    return Net(forward, one=nn.Linear(5, 6), two=nn.Linear(6, 6), last=nn.Linear(6, 4), constant_mask=mask), FLAT


@network
def switched_off_by_units():
    """A boolean mask made of units. No gate can stand behind a boolean."""

    def forward(self, x):
        hidden = self.one(x).masked_fill(torch.logical_not(F.relu(self.two(x))), 0.0)
        return self.last(hidden.masked_fill(F.relu(self.three(x)).to(torch.bool), 0.0))

    parts = {"one": nn.Linear(5, 6), "two": nn.Linear(5, 6), "three": nn.Linear(5, 6)}
    return Net(forward, **parts, last=nn.Linear(6, 4)), FLAT


@network
def chosen_by_a_parameter():
    """Every task chooses other units."""

    def forward(self, x):
        return self.last(F.relu(self.one(x))[:, self.scores.topk(4).indices] * self.scores.topk(4).values)

    return Net(forward, one=nn.Linear(5, 8), last=nn.Linear(4, 4), scores=parameter(8)), FLAT


@network
def chosen_by_a_table():
    """Every task chooses other units, because a layer chooses them from constants."""

    def forward(self, x):
        order = self.table(self.constant_words).sum(1).argsort()
        return self.last(F.relu(self.one(x))[:, order])

    parts = {"table": nn.Embedding(6, 3), "constant_words": torch.arange(6)}
    return Net(forward, one=nn.Linear(5, 6), last=nn.Linear(6, 4), **parts), FLAT


@network
def quotients_of_units():
    """Divisors that are 0 if a unit is off: the unit itself, or another unit."""

    def forward(self, x):
        hidden = self.one(x)
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 0.1).sqrt()
        return self.last(hidden / (1 + F.relu(self.two(x))) + x[:, :1] / (2 + self.three(x).tanh()))

    parts = {"one": nn.Linear(5, 6), "two": nn.Linear(5, 1), "three": nn.Linear(5, 6)}
    return Net(forward, **parts, last=nn.Linear(6, 4)), FLAT


@network
def one_unit_by_itself():
    """A value with a single unit: one number per sample, and one score per token."""

    def forward(self, x):
        hidden = F.relu(self.one(x))
        scores = self.score(hidden).squeeze(-1).softmax(-1)
        hidden = (scores[..., None] * hidden).sum(1)
        return self.last(self.switch(hidden)[:, 0][:, None] * hidden)

    parts = {"score": nn.Linear(5, 1), "switch": nn.Linear(5, 2)}
    return Net(forward, one=nn.Linear(6, 5), last=nn.Linear(5, 4), **parts), TOKENS


@network
def bounded():
    return mlp_around(6, 6, nn.Hardtanh(0.5, 2.0), nn.Linear(6, 6), nn.ReLU6(), nn.Linear(6, 6), nn.Softmax(1)), FLAT


@network
def constants():
    def forward(self, x):
        x = F.relu(self.one(x)) * self.constant_scale + 1
        return self.last((x - self.constant_shift) / 2)

    parts = {"constant_scale": torch.linspace(1, 2, 6), "constant_shift": torch.ones(())}
    return Net(forward, one=nn.Linear(5, 6), last=nn.Linear(6, 4), **parts), FLAT


@network
def matrix_by_hand():
    """A matrix that is computed from a parameter and multiplied with units, outside of a layer."""

    def forward(self, x):
        x = F.relu(self.one(x)) @ self.matrix.tanh()
        return self.last(F.relu(torch.einsum("bi,ij->bj", x, self.other.tanh())))

    return Net(forward, one=nn.Linear(5, 6), last=nn.Linear(5, 4), matrix=parameter(6, 4), other=parameter(4, 5)), FLAT


@network
def normalised():
    parts = (nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6), nn.RMSNorm(6))
    return mlp_around(6, 6, *parts), FLAT


@network
def prelu():
    return mlp_around(6, 6, nn.PReLU(6), nn.Linear(6, 6), nn.PReLU()), FLAT


@network
def sum_with_inputs_beside_units():
    """Units that meet inputs keep their places. Other units may move."""

    def forward(self, x):
        wide = torch.cat([x, F.relu(self.one(x))], 1)
        return self.last(F.relu(self.two(F.relu(self.other(x))) + wide))

    parts = {"one": nn.Linear(5, 6), "other": nn.Linear(5, 4), "two": nn.Linear(4, 11)}
    return Net(forward, **parts, last=nn.Linear(11, 4)), FLAT


@network
def product_with_inputs_beside_units():
    def forward(self, x):
        wide = torch.cat([x, F.relu(self.one(x))], 1)
        return self.last(self.two(F.relu(self.other(x))) * wide)

    parts = {"one": nn.Linear(5, 6), "other": nn.Linear(5, 4), "two": nn.Linear(4, 11)}
    return Net(forward, **parts, last=nn.Linear(11, 4)), FLAT


@network
def norm_of_inputs_beside_units():
    def forward(self, x):
        wide = torch.cat([x, F.relu(self.one(x))], 1)
        return self.last(self.norm2(self.norm(wide)))

    return Net(forward, one=nn.Linear(5, 6), norm=nn.LayerNorm(11), norm2=nn.BatchNorm1d(11),
               last=nn.Linear(11, 4)), FLAT  # fmt: skip


@network
def scales_of_inputs_beside_units():
    def forward(self, x):
        wide = torch.cat([x, F.relu(self.one(x))], 1)
        return self.last(wide * self.scale) + self.other(wide + self.shift)

    return Net(forward, one=nn.Linear(5, 6), scale=parameter(11), shift=parameter(11), last=nn.Linear(11, 4),
               other=nn.Linear(11, 4)), FLAT  # fmt: skip


@network
def one_scale_for_units_and_inputs():
    def forward(self, x):
        return self.last(F.relu(self.one(x * self.scale)) * self.scale)

    return Net(forward, one=nn.Linear(5, 5), scale=parameter(5), last=nn.Linear(5, 4)), FLAT


@network
def rolled_across_units():
    """After the roll, the last position of the last unit comes first."""

    def forward(self, x):
        return self.last(F.relu(self.one(x)).flatten(1).roll(1, 1))

    return Net(forward, one=nn.Linear(6, 5), last=nn.Linear(20, 4)), TOKENS


@network
def padded_units():
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.ConstantPad1d((1, 2), 0.0), nn.Linear(9, 4)), FLAT


@network
def bounded_stream():
    """An element that was 0 is 0.5 behind the bound."""

    def forward(self, x):
        x = F.relu(self.one(x))
        return self.last(F.hardtanh(x, 0.5, 2.0)) + self.other(self.bound(x)) + self.third(x.clamp(-1, -0.5))

    parts = {"last": nn.Linear(6, 4), "other": nn.Linear(6, 4), "third": nn.Linear(6, 4)}
    return Net(forward, one=nn.Linear(5, 6), bound=nn.Hardtanh(-2.0, -0.5), **parts), FLAT


# ---------------------------------------------------------------- images


@network
def convnet():
    middle = (nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), *middle, nn.Conv2d(4, 3, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)
    ), IMAGE


@network
def flattened_by_view():
    def forward(self, x):
        x = F.relu(self.one(x))
        return self.last(x.view(x.size(0), -1))

    return Net(forward, one=nn.Conv2d(2, 3, 3), last=nn.Linear(48, 4)), IMAGE


@network
def flattened_positions_first():
    def forward(self, x):
        return self.last(F.relu(self.one(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1))

    return Net(forward, one=nn.Conv2d(2, 3, 4), last=nn.Linear(27, 4)), IMAGE


@network
def depthwise():
    middle = (nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.SiLU())
    return convnet_around(*middle, nn.Conv2d(4, 8, 1, groups=4), nn.GELU(), outputs=8), IMAGE


@network
def depthwise_of_inputs():
    return nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 4), nn.Flatten()), IMAGE


@network
def grouped():
    middle = (nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2), nn.GroupNorm(3, 6), nn.ReLU(), nn.ChannelShuffle(2))
    return convnet_around(*middle, nn.Conv2d(6, 4, 1, groups=2), nn.Tanh()), IMAGE


@network
def grouped_inputs():
    return nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 3, 4), nn.Flatten()), IMAGE


@network
def transposed():
    middle = (nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, stride=2), nn.ReLU())
    return convnet_around(*middle, nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False), nn.ReLU(), last=8), IMAGE


@network
def transposed_inputs():
    return nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 6), nn.Flatten()), IMAGE


@network
def squeeze_and_excite():
    def forward(self, x):
        x = F.silu(self.norm(self.one(x)))
        s = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.last((x * s).flatten(1))

    parts = {"one": nn.Conv2d(2, 5, 3), "norm": nn.BatchNorm2d(5)}
    return Net(forward, **parts, down=nn.Conv2d(5, 3, 1), up=nn.Conv2d(3, 5, 1), last=nn.Linear(80, 4)), IMAGE


@network
def pixel_shuffle():
    middle = (nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.PixelUnshuffle(2))
    return convnet_around(*middle, outputs=16, last=2), IMAGE


@network
def padded():
    middle = (nn.ZeroPad2d(1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ConstantPad2d(1, 0.7), nn.Conv2d(4, 4, 3))
    return convnet_around(*middle, nn.ReflectionPad2d(1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding_mode="circular",
                          padding=1), last=4), IMAGE  # fmt: skip


@network
def channels_padded():
    """A shortcut to another width, with zeros instead of a projection."""

    def forward(self, x):
        x = F.relu(self.one(x))
        y = self.two(x)
        return self.last(F.relu(F.pad(x[:, :, 1:-1, 1:-1], (0, 0, 0, 0, 1, 1)) + y).flatten(1))

    return Net(forward, one=nn.Conv2d(2, 3, 3), two=nn.Conv2d(3, 5, 3), last=nn.Linear(20, 4)), IMAGE


@network
def pools():
    def forward(self, x):
        x = F.max_pool2d(F.gelu(self.one(x)), 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(self.two(x), 2, 1, 1)
        x = F.interpolate(F.relu(x), scale_factor=2)
        x = torch.cat([F.adaptive_avg_pool2d(x, 2), F.adaptive_max_pool2d(x, 2)], 1)
        return self.last(x.flatten(1))

    return Net(forward, one=nn.Conv2d(2, 4, 2), two=nn.Conv2d(4, 3, 2), last=nn.Linear(24, 4)), IMAGE


@network
def pooled_over_tokens_and_units():
    """The pool takes units for positions of an image, so neighbouring units meet."""

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.one(x)), 3, 1, 1)
        return self.last(x.transpose(1, 2).flatten(1))

    return Net(forward, one=nn.Conv1d(4, 5, 1), last=nn.Linear(30, 4)), TOKENS


@network
def preactivation():
    def forward(self, x):
        x = self.stem(x)
        x = x + self.two(F.relu(self.norm(x)))
        return self.last(F.relu(self.other(x)).mean((2, 3)))

    parts = {"norm": nn.BatchNorm2d(4), "two": nn.Conv2d(4, 4, 3, padding=1), "other": nn.BatchNorm2d(4)}
    return Net(forward, stem=nn.Conv2d(2, 4, 3), **parts, last=nn.Linear(4, 4)), IMAGE


@network
def resnet():
    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.norm2(self.two(F.relu(self.norm1(self.one(x)))))
        x = F.relu(self.project(x) + y)
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))

    parts = {"stem": nn.Conv2d(2, 4, 3, bias=False), "norm": nn.BatchNorm2d(4), "one": nn.Conv2d(4, 5, 3, 2, 1)}
    parts |= {"norm1": nn.BatchNorm2d(5), "two": nn.Conv2d(5, 6, 3, padding=1), "norm2": nn.BatchNorm2d(6)}
    parts["project"] = nn.Sequential(nn.Conv2d(4, 6, 1, 2), nn.BatchNorm2d(6))
    return Net(forward, **parts, last=nn.Linear(6, 4)), IMAGE


@network
def dense():
    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.one(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.two(F.relu(self.norm2(x)))], 1)
        return self.last(F.relu(self.norm3(x)).mean((2, 3)))

    parts = {"norm1": nn.BatchNorm2d(3), "one": nn.Conv2d(3, 2, 3, padding=1), "norm2": nn.BatchNorm2d(5)}
    parts |= {"two": nn.Conv2d(5, 2, 3, padding=1), "norm3": nn.BatchNorm2d(7)}
    return Net(forward, stem=nn.Conv2d(2, 3, 3), **parts, last=nn.Linear(7, 4)), IMAGE


@network
def convnext():
    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return self.last((x + y.permute(0, 3, 1, 2)).mean((2, 3)))

    parts = {"depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4), "norm": nn.LayerNorm(4), "scale": parameter(4)}
    return Net(forward, stem=nn.Conv2d(2, 4, 3), **parts, up=nn.Linear(4, 7), down=nn.Linear(7, 4),
               last=nn.Linear(4, 4)), IMAGE  # fmt: skip


@network
def layer_norm_over_an_image():
    return convnet_around(nn.LayerNorm([4, 4, 4]), nn.ReLU(), nn.GroupNorm(4, 4), nn.GroupNorm(1, 4)), IMAGE


@network
def instance_norm():
    return convnet_around(nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4),
                          last=4), IMAGE  # fmt: skip


@network
def switched_channels():
    return convnet_around(nn.GLU(1), nn.Conv2d(2, 4, 1), nn.PReLU(4), nn.BatchNorm2d(4), nn.PReLU(), last=4), IMAGE


@network
def patches():
    """A convolution written by hand, and a layer."""

    def forward(self, x):
        x = F.relu(self.one(x))
        x = F.relu(self.two(F.unfold(x, 2, padding=1).transpose(1, 2)))
        return self.last(x.unfold(1, 5, 5).amax(3).flatten(1))

    return Net(forward, one=nn.Conv2d(2, 3, 3), two=nn.Linear(12, 4), last=nn.Linear(20, 4)), IMAGE


@network
def signals():
    middle = (nn.BatchNorm1d(5), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(5, 4, 2), nn.GELU())
    return nn.Sequential(nn.Conv1d(4, 5, 3), *middle, nn.Flatten(), nn.Linear(4, 4)), TOKENS


@network
def volumes():
    middle = (nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2))
    return nn.Sequential(nn.Conv3d(1, 4, 2), *middle, nn.ConvTranspose3d(4, 3, 2), nn.ReLU(), nn.Conv3d(3, 3, 2),
                         nn.Flatten()), (1, 4, 4, 4)  # fmt: skip


# ---------------------------------------------------------------- sequences


@network
def inputs_among_tokens():
    """Some tokens have units, and others are inputs, which no task can switch off."""

    def forward(self, x):
        x = torch.cat([x, F.relu(self.one(x)) * self.scale], 1)
        return self.last((self.norm(x) * self.scale2).mean(1)) + self.other(F.relu(self.two(x)).amax(1))

    parts = {"norm": nn.LayerNorm(6), "scale": parameter(6), "scale2": parameter(6), "two": nn.Linear(6, 5)}
    return Net(forward, one=nn.Linear(6, 6), **parts, last=nn.Linear(6, 4), other=nn.Linear(5, 4)), TOKENS


def attention(self, x, heads=2, *, by_hand=False):
    batch, length, width = x.shape
    q, k, v = (t.view(batch, length, heads, width // heads).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
    if by_hand:
        weights = ((q @ k.transpose(-2, -1)) * (width // heads) ** -0.5).softmax(-1)
        found = weights @ v
    else:
        found = F.scaled_dot_product_attention(q, k, v)
    return self.out(found.transpose(1, 2).reshape(batch, length, width))


def transformer(*, by_hand, **more):
    def forward(self, x):
        x = self.stem(x) + self.positions
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.scale * attention(self, self.norm(x), by_hand=by_hand)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.last(self.norm3(x)[:, 0])

    parts = {"stem": nn.Linear(6, 8), "positions": parameter(1, 4, 8), "token": parameter(1, 1, 8)}
    parts |= {"norm": nn.LayerNorm(8), "norm2": nn.LayerNorm(8), "norm3": nn.LayerNorm(8), "scale": parameter(8)}
    parts |= {"qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8), "up": nn.Linear(8, 7), "down": nn.Linear(7, 8)}
    return Net(forward, **parts, last=nn.Linear(8, 4)), TOKENS


@network
def transformer_fused():
    return transformer(by_hand=False)


@network
def transformer_by_hand():
    return transformer(by_hand=True)


@network
def qkv_by_reshape():
    def forward(self, x):
        x = self.stem(x)
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(self.norm(q), self.norm2(k), v)
        return self.last((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))

    parts = {"stem": nn.Linear(6, 8), "qkv": nn.Linear(8, 24), "norm": nn.LayerNorm(4), "norm2": nn.LayerNorm(4)}
    return Net(forward, **parts, out=nn.Linear(8, 8), last=nn.Linear(8, 4)), TOKENS


@network
def torch_attention():
    def forward(self, x):
        x = self.stem(x)
        return self.last((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))

    return Net(forward, stem=nn.Linear(6, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True),
               last=nn.Linear(8, 4)), TOKENS  # fmt: skip


@network
def torch_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 9, batch_first=True)
    return nn.Sequential(nn.Linear(6, 8), layer, nn.Flatten(), nn.Linear(32, 4)), TOKENS


@network
def cross_attention():
    def forward(self, x, y):
        x, y = self.one(x), self.two(y)
        found, _ = self.attention(x, y, y, need_weights=False)
        return self.last(found.mean(1))

    parts = {"one": nn.Linear(6, 8), "two": nn.Linear(5, 8), "attention": nn.MultiheadAttention(8, 2, batch_first=True)}
    return Net(forward, **parts, last=nn.Linear(8, 4)), TOKENS, (7, 5)


@network
def linear_attention():
    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = q.softmax(-1), k.softmax(1)
        return self.last((q @ (k.transpose(1, 2) @ v)).flatten(1))

    return Net(forward, qkv=nn.Linear(6, 15), last=nn.Linear(20, 4)), TOKENS


@network
def kernel_attention():
    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.relu(q), F.relu(k)
        found = torch.einsum("bnd,bde->bne", q, torch.einsum("bnd,bne->bde", k, v))
        weight = torch.einsum("bnd,bd->bn", q, k.sum(1)) + 1e-1
        return self.last((found / weight.unsqueeze(-1)).flatten(1))

    return Net(forward, qkv=nn.Linear(6, 15), last=nn.Linear(20, 4)), TOKENS


@network
def grouped_queries():
    def forward(self, x):
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, 4, 2).transpose(1, 2)
        k, v = (f(x).view(batch, length, 2, 2).transpose(1, 2).repeat_interleave(2, 1) for f in (self.k, self.v))
        return self.last(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(1))

    return Net(forward, q=nn.Linear(6, 8), k=nn.Linear(6, 4), v=nn.Linear(6, 4), last=nn.Linear(32, 4)), TOKENS


@network
def one_key_for_all_heads():
    def forward(self, x):
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, 4, 2).transpose(1, 2)
        k, v = self.k(x).unsqueeze(1), self.v(x).unsqueeze(1)
        found = ((q @ k.transpose(-1, -2)).softmax(-1)) @ v
        return self.last(found.transpose(1, 2).flatten(1))

    return Net(forward, q=nn.Linear(6, 8), k=nn.Linear(6, 2), v=nn.Linear(6, 3), last=nn.Linear(48, 4)), TOKENS


@network
def rotated():
    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)

        def rotate(t):
            one, two = t.chunk(2, -1)
            return t * self.constant_cos + torch.cat([-two, one], -1) * self.constant_sin

        return self.last(F.scaled_dot_product_attention(rotate(q), rotate(k), v).flatten(1))

    angles = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.3, 1.0, 0.3])
    return Net(forward, qkv=nn.Linear(6, 12), last=nn.Linear(16, 4), constant_cos=angles.cos(),
               constant_sin=angles.sin()), TOKENS  # fmt: skip


@network
def relative_positions():
    def forward(self, x):
        q, k, v = self.qkv(x).view(x.shape[0], 4, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.constant_index.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        scale = self.scale.clamp(max=2.0).exp()
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * scale + bias.unsqueeze(0)
        return self.last((weights.softmax(-1) @ v).transpose(1, 2).flatten(1))

    index = torch.arange(4)[:, None] - torch.arange(4) + 3
    return Net(forward, qkv=nn.Linear(6, 18), last=nn.Linear(24, 4), table=parameter(7, 2), scale=parameter(2, 1, 1),
               constant_index=index), TOKENS  # fmt: skip


@network
def sum_of_a_table():
    """A parameter that is added to units after a sum over its own elements, which lie along no gate."""

    def forward(self, x):
        return self.last(F.relu(self.one(x)) + self.table.mean(0)[:6] + self.table.sum())

    return Net(forward, one=nn.Linear(6, 6), table=parameter(3, 7), last=nn.Linear(6, 4)), TOKENS


@network
def talking_heads():
    """A layer mixes the heads before and behind the softmax."""

    def forward(self, x):
        q, k, v = self.qkv(x).view(x.shape[0], 4, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = self.behind(weights.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last((weights @ v).transpose(1, 2).flatten(1))

    return Net(forward, qkv=nn.Linear(6, 18), before=nn.Linear(2, 2), behind=nn.Linear(2, 2),
               last=nn.Linear(24, 4)), TOKENS  # fmt: skip


@network
def mixer():
    def forward(self, x):
        x = self.stem(x)
        y = self.norm(x).transpose(1, 2)
        x = x + self.tokens2(F.gelu(self.tokens(y))).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.last(x.mean(1))

    parts = {"norm": nn.LayerNorm(5), "norm2": nn.LayerNorm(5), "tokens": nn.Linear(4, 7), "tokens2": nn.Linear(7, 4)}
    return Net(forward, stem=nn.Linear(6, 5), **parts, up=nn.Linear(5, 6), down=nn.Linear(6, 5),
               last=nn.Linear(5, 4)), TOKENS  # fmt: skip


@network
def windows():
    """Shifted windows, merged by fours."""

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        y = torch.roll(x, (-1, -1), (1, 2)).view(x.shape[0], 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4)
        y = attention(self, self.norm(y)).view(x.shape[0], 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(x.shape)
        x = x + torch.roll(y, (1, 1), (1, 2))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.last(self.merge(self.norm2(x)).mean((1, 2)))

    parts = {"stem": nn.Conv2d(2, 4, 3), "norm": nn.LayerNorm(4), "norm2": nn.LayerNorm(16), "qkv": nn.Linear(4, 12)}
    return Net(forward, **parts, out=nn.Linear(4, 4), merge=nn.Linear(16, 6, bias=False),
               last=nn.Linear(6, 4)), IMAGE  # fmt: skip


@network
def language_model():
    """The table of words is also the decoder."""
    decoder = nn.Linear(6, 11, bias=False)
    table = nn.Embedding(11, 6, padding_idx=0)
    decoder.weight = table.weight

    def forward(self, x):
        x = self.table(x) + self.positions(torch.arange(x.shape[1]))
        return self.decoder(self.norm(x + self.down(F.relu(self.up(x)))))

    parts = {"norm": nn.LayerNorm(6), "up": nn.Linear(6, 7), "down": nn.Linear(7, 6)}
    return Net(forward, table=table, positions=nn.Embedding(5, 6), **parts, decoder=decoder), words()


@network
def words_read_and_written():
    """The graph reads the table of a layer without calling the layer. The layer stays unchanged."""

    def forward(self, x):
        x = self.table(x)
        return F.linear(x + self.down(F.relu(self.up(x))), self.table.weight)

    return Net(forward, table=nn.Embedding(11, 6), up=nn.Linear(6, 7), down=nn.Linear(7, 6)), words()


@network
def projected_words():
    def forward(self, x):
        x = self.norm(self.project(self.table(x)) + self.positions[: x.shape[1]])
        return self.last(x.amax(1))

    parts = {"table": nn.Embedding(11, 3), "project": nn.Linear(3, 6), "positions": parameter(7, 6)}
    return Net(forward, **parts, norm=nn.LayerNorm(6), last=nn.Linear(6, 4)), words()


@network
def weights_of_another_form():
    """Parametrizations: the graph computes the weight."""
    one = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))
    return nn.Sequential(one, nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)), FLAT


class Conv1D(nn.Module):
    """As in transformers: a linear layer whose weight is [inputs, outputs]."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf, self.nx = outputs, inputs
        self.weight, self.bias = parameter(inputs, outputs), parameter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size_out)


@network
def transposed_weights():
    """A block of GPT-2."""

    def forward(self, x):
        x = self.words(x)
        q, k, v = self.c_attn(self.ln_1(x)).split(6, 2)
        q, k, v = (y.view(*y.shape[:2], 2, 3).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(x.shape))
        return self.ln_f(x + self.mlp_proj(F.gelu(self.mlp_fc(self.ln_2(x)), approximate="tanh")))

    norms = {name: nn.LayerNorm(6) for name in ("ln_1", "ln_2", "ln_f")}
    maps = {"c_attn": Conv1D(18, 6), "c_proj": Conv1D(6, 6), "mlp_fc": Conv1D(8, 6), "mlp_proj": Conv1D(6, 8)}
    return Net(forward, words=nn.Embedding(11, 6), **norms, **maps), words()


@network
def transposed_weights_and_others():
    """Linear maps by all names, with weights of either layout, the last but one over tokens."""

    def forward(self, x):
        x = F.relu(x @ self.one)
        x = F.relu(torch.einsum("bti,io->bto", x, self.two) + self.bias)
        x = F.relu(F.linear(x, self.three.t(), self.shift))
        x = F.relu(torch.einsum("oi,...i->...o", self.four, x))
        x = F.relu(torch.matmul(x, self.five.T))
        return F.relu(self.over_tokens @ x).mean(1) @ self.last

    layers = {"one": (5, 6), "two": (6, 4), "three": (4, 4), "four": (6, 4), "five": (5, 6), "last": (5, 3)}
    weights = {name: parameter(*shape) for name, shape in layers.items()}
    return Net(forward, bias=parameter(4), shift=parameter(4), over_tokens=parameter(7, 3), **weights), (3, 5)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (var + 0.1).sqrt(), self.bias)


@network
def standardised_weights():
    return convnet_around(nn.GroupNorm(2, 4), nn.ReLU(), Standardised(4, 6, 2), nn.ReLU(), outputs=6), IMAGE
