"""What one kernel launch is, and arithmetic that the choices of grids share; nothing here touches a GPU."""

from dataclasses import dataclass

from graphsched.errors import ShapeError

# whatever the launcher packs as a pointer: a device buffer, an address, None; or as a scalar
Address = object
MOST_BLOCKS = (2**31 - 1, 65535, 65535)  # of a grid's dimensions


@dataclass(frozen=True)
class Call:
    """One launch: the kernel file and the weight types it is built for, then what the launcher takes.

    overlaps: it may begin while the kernel right before it in its stream still runs (chain.py).
    ShapeError: no GPU takes its grid.
    """

    stem: str
    types: tuple[str, ...]
    kernel: str
    grid: tuple[int, ...]
    block: int
    args: tuple[Address, ...]
    shared: int = 0
    overlaps: bool = False

    def __post_init__(self) -> None:
        if any(n > most for n, most in zip(self.grid, MOST_BLOCKS, strict=False)):
            raise ShapeError(f"{self.kernel}: a grid of {self.grid} blocks, at most {MOST_BLOCKS}")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute: no rows."""
        return 0 in self.grid


@dataclass(frozen=True)
class Product:
    """y[m, n] = x[m, k] · w[n, k]ᵀ by cuBLASLt: x and w f16 or bf16, y float32 with rows `y_stride` apart."""

    kind: str
    x: int
    w: int
    y: int
    m: int
    n: int
    k: int
    y_stride: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute: no rows."""
        return self.m == 0

    @property
    def kernel(self) -> str:
        """A name for traces: the library chooses the kernel."""
        return f"cublaslt_{self.kind}"


Launched = Call | Product


def up(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def threads(n: int) -> int:
    """A block for n elements: whole warps, at most 1024 threads."""
    return min(1024, up(n, 32) * 32)
