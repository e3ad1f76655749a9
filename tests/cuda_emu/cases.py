"""Every CUDA kernel's cases against numpy, for any target: the emulator, or a GPU. Outputs start as NaN."""

from cuda_emu.activations import activations, copies
from cuda_emu.attends import attentions
from cuda_emu.parts import attentions_in_parts
from cuda_emu.products import gemms, products
from cuda_emu.states import recurrents
from cuda_emu.values import Case
from cuda_emu.w2a8s import w2a8s
from cuda_emu.wrapped import wrappers


def cases() -> list[Case]:
    """All of them, wrappers first."""
    made = [*wrappers(), *activations(), *copies(), *products(), *attentions()]
    return [*made, *attentions_in_parts(), *gemms(), *w2a8s(), *recurrents()]
