"""`hat data`."""

from __future__ import annotations

import argparse

import hat.data


def run_data(arguments: argparse.Namespace) -> None:
    """List the datasets that have a name, and where they were found.

    Raises:
        FileNotFoundError: the folder that was named is not there.
    """
    for source in hat.data.sources(arguments.data):
        print(source)
