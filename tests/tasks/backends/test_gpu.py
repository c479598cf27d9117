from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tasks.backends.gpu import Gpu, find_gpu, target_of
from tasks.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("name", "mig", "target"),
    [
        ("Tesla T4", None, "t4"),
        ("NVIDIA T4", None, "t4"),
        ("NVIDIA T400 4GB", None, None),
        ("NVIDIA A10G", None, "a10g"),
        ("NVIDIA A10", None, None),
        ("NVIDIA L4", None, "l4"),
        ("NVIDIA L40S", None, None),
        ("NVIDIA A100-SXM4-40GB", None, "a100"),
        ("NVIDIA A100-SXM4-80GB", None, "a100"),
        ("NVIDIA A100 80GB PCIe", None, "a100"),
        ("A100-PCIE-40GB", None, "a100"),
        ("NVIDIA A1000", None, None),
        ("NVIDIA H100 80GB HBM3", None, "h100"),
        ("NVIDIA H100 PCIe", None, "h100"),
        ("NVIDIA H100 NVL", None, "h100"),
        ("NVIDIA H200", None, "h200"),
        ("NVIDIA H200 NVL", None, "h200"),
        ("NVIDIA GH200 480GB", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
        ("AMD EPYC cpu", None, None),
        ("GRID T4-8Q", None, None),
        ("GRID T4-2B4", None, None),
        ("NVIDIA L4-24A", None, None),
        ("NVIDIA H100-80C", None, None),
        ("NVIDIA A100-1-10CME", None, None),
        ("NVIDIA A100-4-20C MIG 4g.20gb", "4g.20gb", None),
        ("NVIDIA A100-SXM-64GB", None, "a100"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "1g.5gb", "a100-mig-1g.5gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "1G.5GB", "a100-mig-1g.5gb"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "3g.40gb", "h100-mig-3g.40gb"),
        ("NVIDIA A30 MIG 1g.6gb", "1g.6gb", None),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "1c.3g.20gb", None),
    ],
)
def test_a_gpu_is_the_target_that_its_name_says(name: str, mig: str | None, target: str | None) -> None:
    assert target_of(name, mig) == target


class NvmlError(Exception):
    pass


@dataclass
class Card:
    """A GPU, or with `of` a slice of one."""

    name: str
    uuid: str
    capability: tuple[int, int] = (8, 0)
    cut: bool | None = None  # None: cannot be cut
    slices: list[Card] = field(default_factory=list)
    of: Card | None = None


class FakeNvml:
    """Answers as NVML does on a host with these cards."""

    def __init__(self, *cards: Card) -> None:
        self.cards = list(cards)
        self.open = 0
        self.module = ModuleType("pynvml")
        vars(self.module).update(NVMLError=NvmlError, NVML_DEVICE_MIG_ENABLE=1)
        for name in dir(self):
            if name.startswith("nvml"):
                setattr(self.module, name, self._opened(name))

    def _opened(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if not self.open and name != "nvmlInit":
                raise NvmlError("Uninitialized")
            return getattr(self, name)(*arguments)

        return call

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names, here and below
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        if index >= len(self.cards):
            raise NvmlError("Invalid Argument")
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802
        known = [*self.cards, *(slice_ for card in self.cards for slice_ in card.slices)]
        for card in known:
            if card.uuid == uuid:
                return card
        raise NvmlError("Not Found")

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:  # noqa: N802
        if index >= len(card.slices):
            raise NvmlError("Not Found")
        return card.slices[index]

    def nvmlDeviceGetUUID(self, card: Card) -> str:  # noqa: N802
        return card.uuid

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:  # noqa: N802
        if card.cut is None:
            raise NvmlError("Not Supported")
        return [int(card.cut), 1]

    def nvmlDeviceGetName(self, card: Card) -> str:  # noqa: N802
        return card.name

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, card: Card) -> Card:  # noqa: N802
        if card.of is None:
            raise NvmlError("Invalid Argument")
        return card.of

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:  # noqa: N802
        if card.of is not None:
            raise NvmlError("Invalid Argument")
        return card.capability

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 12080

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.86.15"


def host() -> FakeNvml:
    """A T4, an A10G, and an A100 that is cut into two slices."""
    whole = Card("NVIDIA A100-SXM4-40GB", "GPU-aab31234-5678", cut=True)
    whole.slices = [
        Card("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-1111-2222", of=whole),
        Card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-3333-4444", of=whole),
    ]
    return FakeNvml(
        Card("Tesla T4", "GPU-aaa11234-5678", (7, 5)),
        Card("NVIDIA A10G", "GPU-bbb21234-5678", (8, 6), cut=None),
        whole,
    )


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    nvml = host()
    monkeypatch.setitem(sys.modules, "pynvml", nvml.module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml


def test_without_a_choice_the_first_gpu_is_described_and_nvml_closed_again(nvml: FakeNvml) -> None:
    assert find_gpu() == Gpu(
        name="Tesla T4",
        compute_capability="7.5",
        driver="570.86.15",
        cuda="12.8",
        mig=None,
        uuid="GPU-aaa11234-5678",
    )
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "target"),
    [
        ("0", "t4"),
        ("1", "a10g"),
        (" 1 , 0", "a10g"),
        ("1,-1", "a10g"),
        ("GPU-bbb21234-5678", "a10g"),
        ("GPU-bbb", "a10g"),
        ("GPU-aaa1,GPU-bbb2", "t4"),
        ("2", "a100-mig-1g.5gb"),
        ("GPU-aab", "a100-mig-1g.5gb"),
        ("MIG-3333-4444", "a100-mig-3g.20gb"),
    ],
)
@pytest.mark.usefixtures("nvml")
def test_the_gpu_is_that_which_cuda_visible_devices_names_first(
    monkeypatch: pytest.MonkeyPatch, visible: str, target: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpu().target == target


@pytest.mark.usefixtures("nvml")
def test_a_slice_has_the_compute_capability_of_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1111-2222")
    found = find_gpu()
    assert (found.compute_capability, found.mig, found.uuid) == ("8.0", "1g.5gb", "MIG-1111-2222")


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        ("", "CUDA_VISIBLE_DEVICES hides every GPU; name one in it, or unset it"),
        ("-1", "CUDA_VISIBLE_DEVICES hides every GPU"),
        (" ,1", "CUDA_VISIBLE_DEVICES hides every GPU"),
        ("9", "no NVIDIA GPU can be used here: Invalid Argument"),
        ("GPU-aa", "CUDA_VISIBLE_DEVICES: GPU-aa names 2 GPUs; `nvidia-smi -L`"),
        ("GPU-ccc", "CUDA_VISIBLE_DEVICES: GPU-ccc names 0 GPUs"),
        ("all", "CUDA_VISIBLE_DEVICES: all names 0 GPUs"),
        ("MIG-9999", "no NVIDIA GPU can be used here: Not Found"),
    ],
)
def test_a_choice_that_names_no_gpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, visible: str, words: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(StageError) as caught:
        find_gpu()
    assert words in str(caught.value)
    assert nvml.open == 0


def test_a_gpu_that_could_be_cut_and_is_not_is_whole(nvml: FakeNvml) -> None:
    nvml.cards = [Card("NVIDIA H100 80GB HBM3", "GPU-1", (9, 0), cut=False)]
    assert (find_gpu().target, find_gpu().mig) == ("h100", None)


def test_a_gpu_that_is_cut_into_nothing_yet_cannot_be_used(nvml: FakeNvml) -> None:
    nvml.cards = [Card("NVIDIA H100 80GB HBM3", "GPU-1", (9, 0), cut=True)]
    with pytest.raises(StageError, match="no NVIDIA GPU can be used here: Not Found"):
        find_gpu()


def test_a_part_of_a_slice_is_neither_the_slice_nor_the_gpu(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> None:
    whole = nvml.cards[2]
    whole.slices.append(Card("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "MIG-5555", of=whole))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5555")
    found = find_gpu()
    assert (found.mig, found.target, found.compute_capability) == ("1c.3g.20gb", None, "8.0")


def test_a_host_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> None:
    def fail() -> None:
        raise NvmlError("NVML Shared Library Not Found")

    monkeypatch.setattr(nvml.module, "nvmlInit", fail)
    with pytest.raises(
        StageError, match=r"no NVIDIA GPU can be used here: NVML Shared Library Not Found; .*nvidia-smi"
    ):
        find_gpu()


def test_without_nvidia_ml_py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(StageError, match=r"nvidia-ml-py is not installed here; pip install '\.\[tensorrt\]' brings it"):
        find_gpu()
