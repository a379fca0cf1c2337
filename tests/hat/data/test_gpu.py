import pytest
import torch

import hat.data as data

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device"),
]


def test_batches_on_a_gpu_are_those_of_the_cpu(make_dataset):
    for stream in (
        data.permuted(make_dataset(shape=(3, 6, 6))),
        data.mixture([make_dataset(), make_dataset(shape=(3, 4, 4))]),
    ):
        for task in stream[:2]:
            there = task.to("cuda")
            assert there.train.device.type == "cuda"
            for served in (task.epoch(1, batch_size=16, device="cuda"), there.epoch(1, batch_size=16)):
                for (p, (x, y)), (q, (u, v)) in zip(task.epoch(1, batch_size=16), served, strict=True):
                    assert p == q
                    assert u.is_cuda
                    assert torch.equal(x, u.cpu())
                    assert torch.equal(y, v.cpu())


def test_tasks_share_one_copy_on_the_gpu(make_dataset):
    tasks = [task.to("cuda") for task in data.permuted(make_dataset(), tasks=5)]
    assert len({task.train._images.data_ptr() for task in tasks}) == 1
