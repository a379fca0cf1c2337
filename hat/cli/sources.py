"""`hat data`: list the datasets that have a name."""

from __future__ import annotations

import argparse

import hat.data


def run_data(arguments: argparse.Namespace) -> None:
    """List the datasets that have a name, and where they are.

    Raises:
        FileNotFoundError: the user named a folder that does not exist.
    """
    for source in hat.data.sources(arguments.data):
        print(source)
