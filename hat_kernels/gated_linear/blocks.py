"""How a matmul is cut into tiles: a short list of blocks for each pass."""

from __future__ import annotations

from typing import NamedTuple


class MatmulBlock(NamedTuple):
    """The tile of a matrix product, and how its kernel is launched.

    Attributes:
        m, n: the rows and columns of a tile.
        bytes: how many bytes of a row one step along the inner dimension reads.
        warps, stages: the launch options `num_warps` and `num_stages`.
        persistent: only as many programs are launched as run at once, and each computes several tiles.
    """

    m: int
    n: int
    bytes: int
    warps: int
    stages: int
    persistent: bool = False

    def depth(self, element_size: int) -> int:
        """How many elements of a row one step reads."""
        return self.bytes // element_size

    @property
    def parts(self) -> int:
        """The epilogue computes its columns in this many parts, of 64 columns each: more need too many registers."""
        return max(1, self.n // 64)

    @property
    def shared_bytes(self) -> int:
        """The shared memory that the stages of both operands take."""
        return (self.m + self.n) * self.bytes * self.stages

    def stages_on(self, *, amd: bool) -> int:
        """The stages on a GPU. The shared memory of AMD, 64 KiB, holds two stages of any block in this file."""
        return min(self.stages, 2) if amd else self.stages


_BLOCKS = {
    "narrow": MatmulBlock(64, 32, 128, 4, 4),
    "square": MatmulBlock(128, 128, 128, 8, 3),
    "wide": MatmulBlock(128, 256, 128, 8, 3),
}
PLAIN = MatmulBlock(64, 64, 64, 4, 3)  # for float32 without tensor cores: there the compiler unrolls the inner loop

BLOCKS: dict[str, dict[str, MatmulBlock]] = {
    "forward": _BLOCKS | {"wide": _BLOCKS["wide"]._replace(persistent=True)},
    # The prologue holds one step of dy and z in registers. So a step is half as long, and the widest tile half as high.
    "dx": {
        "narrow": _BLOCKS["narrow"],
        "square": _BLOCKS["square"]._replace(bytes=64, stages=4),
        "wide": _BLOCKS["wide"]._replace(m=64, bytes=64, stages=4),
    },
    "dw": _BLOCKS,
    "update": _BLOCKS,
}
"""The blocks by pass and name, the smallest first."""


def blocks_of(purpose: str, kind: str) -> dict[str, MatmulBlock]:
    """The blocks that can compute a pass in an arithmetic, by name."""
    return {"plain": PLAIN} if kind == "fp32" else BLOCKS[purpose]
