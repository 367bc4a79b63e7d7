"""Memory that runs out in a step: the batch goes on in smaller parts with the gradient of the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convscope.config import TrainConfig
from convscope.device import out_of_memory
from convscope.errors import Interrupted, TrainingError
from convscope.progress import Progress, ignore_progress
from convscope.training.loop import train
from tests.support import new_network, training_data


class Greedy(nn.Module):
    """A network that runs out of memory, from the nth call on, with more than so many images at once."""

    def __init__(self, most: int, calls: int) -> None:
        super().__init__()
        self.network = new_network()
        self.most, self.calls = most, calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        if self.training and self.calls < 0 and len(x) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(x)} images")
        return self.network(x)


@pytest.mark.parametrize("accumulate", [1, 4, 40])
@pytest.mark.parametrize("calls", [0, 5, 19])
def test_micro_batches_give_the_weights_of_whole_batches(tmp_path: Path, calls: int, accumulate: int) -> None:
    config = TrainConfig(epochs=3, batch_size=15, accumulate=accumulate, lr=0.1, optimizer="sgd", schedule="constant")
    data, whole, greedy = training_data(), new_network(), Greedy(4, calls)
    for name in ("whole", "greedy"):
        (tmp_path / name).mkdir()
    expected = train(whole, data, config, tmp_path / "whole", on_progress=ignore_progress)
    shown: list[Progress] = []
    result = train(greedy, data, config, tmp_path / "greedy", on_progress=shown.append)
    for mine, other in zip(greedy.network.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=1e-5)
        assert ours.train_accuracy == pytest.approx(theirs.train_accuracy, abs=0.02)
    assert result.notes == (
        "memory ran out: each batch of 15 goes through the network in 4 micro-batches of 4; "
        "the gradient is that of the whole batch",
    )
    assert [p.stage for p in shown if p.stage.startswith("memory ran out")] != []


def test_a_single_image_too_many_stops_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 4 \(epoch 1\) with a single image.*--image-size"):
        train(Greedy(0, 3), training_data(), TrainConfig(batch_size=16), tmp_path, on_progress=ignore_progress)


@pytest.mark.parametrize(
    ("error", "shortage"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), False),
        (ValueError("an image called std::bad_alloc"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_shortage_is_known_by_the_words_of_each_library(error: Exception, shortage: bool) -> None:
    assert out_of_memory(error) is shortage


def test_other_errors_of_torch_are_not_taken_for_a_shortage(tmp_path: Path) -> None:
    class Broken(Greedy):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, :, :3])

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(Broken(99, 0), training_data(), TrainConfig(), tmp_path, on_progress=ignore_progress)


def test_a_resumed_run_keeps_its_micro_batches(tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, batch_size=15, lr=0.1)
    data, straight, stopped = training_data(), Greedy(4, 2), Greedy(4, 2)
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    train(straight, data, config, tmp_path / "straight", on_progress=ignore_progress)
    answers = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        train(
            stopped,
            data,
            config,
            tmp_path / "stopped",
            on_progress=ignore_progress,
            stop_requested=lambda: next(answers),
        )
    stopped.calls = 10**9  # memory is plentiful now; the run goes on as it was, to stay what it would have become
    train(stopped, data, config, tmp_path / "stopped", on_progress=ignore_progress, resume=True)
    for mine, other in zip(stopped.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, other)


CHILD = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from convscope.config import TrainConfig
from convscope.data.batches import Preprocessing, ResidentImages
from convscope.progress import ignore_progress
from convscope.training.loop import train
from convscope.training.state import TrainingData
torch.set_num_threads(1)
images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), np.uint8))
resident = ResidentImages(images, torch.arange(256) % 2, torch.arange(256))
data = TrainingData(resident, None, Preprocessing((0.5,) * 3, (0.5,) * 3), tuple(map(str, range(256))))
layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
network(torch.zeros(4, 3, 32, 32)).sum().backward()  # libraries take their own memory before the limit is set
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 200 * 2**20,) * 2)
result = train(network, data, TrainConfig(epochs=1, batch_size=256), Path(sys.argv[1]), on_progress=ignore_progress)
print(json.dumps({"notes": result.notes, "loss": result.history[0].train_loss}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limits and /proc")
def test_a_real_limit_on_memory_is_survived(tmp_path: Path) -> None:
    """256 images keep about 270 MB of maps for the backward pass; the process may take 200 MiB more than it has."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "micro-batches of" in answer["notes"][0]
    assert 0 < answer["loss"] < 1
