"""Streams of tasks: datasets from files, cut into tasks with a train, a validation and a test part each."""

from hat.data.dataset import Dataset
from hat.data.loading import SourceStatus, load, sources
from hat.data.location import root
from hat.data.mixing import mixture
from hat.data.part import Part
from hat.data.permutation import permuted
from hat.data.splitting import split
from hat.data.stream import Stream
from hat.data.task import Task

__all__ = [
    "Dataset",
    "Part",
    "SourceStatus",
    "Stream",
    "Task",
    "load",
    "mixture",
    "permuted",
    "root",
    "sources",
    "split",
]
