"""Installs `hat` and `hat_kernels`; the metadata is in pyproject.toml."""

from setuptools import setup

setup()
