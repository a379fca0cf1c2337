"""How a matmul may be cut into tiles: a short list of blocks for each pass."""

from __future__ import annotations

from typing import NamedTuple


class Block(NamedTuple):
    """How a product [m, n] is cut into tiles.

    Attributes:
        m, n: of a tile.
        bytes: of one step along the inner dimension.
        warps, stages: as launched.
        persistent: as many programs as run at once, each through several tiles.
    """

    m: int
    n: int
    bytes: int
    warps: int
    stages: int
    persistent: bool = False

    def depth(self, element_size: int) -> int:
        """The elements of one step."""
        return self.bytes // element_size

    @property
    def parts(self) -> int:
        """The parts in which an epilogue goes through the columns: 64 of them keep a thread's registers."""
        return max(1, self.n // 64)

    @property
    def shared_bytes(self) -> int:
        """What the stages of both operands take."""
        return (self.m + self.n) * self.bytes * self.stages

    def stages_on(self, *, amd: bool) -> int:
        """AMD's shared memory, 64 KiB, holds two stages of any block here."""
        return min(self.stages, 2) if amd else self.stages


_BLOCKS = {
    "narrow": Block(64, 32, 128, 4, 4),
    "square": Block(128, 128, 128, 8, 3),
    "wide": Block(128, 256, 128, 8, 3),
}
PLAIN = Block(64, 64, 64, 4, 3)  # float32 without tensor cores, where the inner loop is unrolled

BLOCKS: dict[str, dict[str, Block]] = {
    "forward": _BLOCKS | {"wide": _BLOCKS["wide"]._replace(persistent=True)},
    # The prologue holds a step of dy and z in registers: half the step, and of the widest half the tile.
    "dx": {
        "narrow": _BLOCKS["narrow"],
        "square": _BLOCKS["square"]._replace(bytes=64, stages=4),
        "wide": _BLOCKS["wide"]._replace(m=64, bytes=64, stages=4),
    },
    "dw": _BLOCKS,
    "update": _BLOCKS,
}
"""By pass and name, the smallest first."""


def blocks_of(purpose: str, kind: str) -> dict[str, Block]:
    """What can run a pass in an arithmetic, by name."""
    return {"plain": PLAIN} if kind == "fp32" else BLOCKS[purpose]
