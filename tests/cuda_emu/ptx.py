"""PTX → C++ for the emulator: what NVRTC makes of the kernels, inline assembly included, runs on the CPU.

The kernels' own emulation replaces the gs_* wrappers, so their assembly never runs there. Here it does, instruction by
instruction as the PTX manual has them: registers are integers of their size, shared addresses are offsets. Barriers,
shuffles, ldmatrix, mma and asynchronous copies are those of gs_emu.h. An instruction that is not known is an error.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cuda_emu.emulator import FLAGS, EmulatedTarget, Emulator, build
from graphsched.backends.cuda.driver.signature import KernelError

PRELUDE = Path(__file__).with_name("gs_ptx.h").read_text()
C = {
    "pred": "bool", "b8": "u8", "u8": "u8", "s8": "i8", "b16": "u16", "u16": "u16", "s16": "int16_t", "f16": "u16",
    "b32": "u32", "u32": "u32", "s32": "int", "f32": "float", "b64": "u64", "u64": "u64", "s64": "i64",
}  # fmt: skip
SPECIAL = {
    "%tid.x": "threadIdx.x", "%ctaid.x": "blockIdx.x", "%ctaid.y": "blockIdx.y", "%ctaid.z": "blockIdx.z",
    "%ntid.x": "blockDim.x", "%nctaid.x": "gridDim.x", "%nctaid.y": "gridDim.y", "%nctaid.z": "gridDim.z",
}  # fmt: skip
KERNEL = re.compile(r"\.visible \.entry (\w+)\((.*?)\)(.*?)^\{(.*?)^\}", re.DOTALL | re.MULTILINE)
SHARED = re.compile(r"\.shared \.align (\d+) \.([bus]\d+) ([\w$]+)(?:\[(\d+)\])?;")
REGISTERS = re.compile(r"\.reg \.(\w+)\s+(%\w+)<(\d+)>;")
INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")


class UnknownInstruction(Exception):
    """Something that this translation has no rule for."""


@dataclass(frozen=True)
class Instruction:
    """`name` in its dotted parts; the last is the type of most."""

    parts: tuple[str, ...]
    operands: tuple[str, ...]

    @property
    def type(self) -> str:
        return C[self.parts[-1]]

    def has(self, part: str) -> bool:
        return part in self.parts


def translated(ptx: str) -> str:
    """C++ with a kernel for each entry, whose parameters are those of the entry."""
    text = re.sub(r"//[^\n]*", "", ptx)
    everywhere = _shared(re.sub(KERNEL, "", text))
    return PRELUDE + "".join(_kernel(m[1], m[2], m[4], everywhere) for m in KERNEL.finditer(text))


def _shared(text: str) -> dict[str, int]:
    """Static shared arrays and their bytes."""
    found = SHARED.finditer(text)
    return {m[3]: int(m[4] or 1) * int(m[2][1:]) // 8 for m in found}


def _kernel(name: str, parameters: str, body: str, everywhere: dict[str, int]) -> str:
    types = re.findall(r"\.param \.(\w+)", parameters)
    given = ", ".join(f"{C[t]} {name}_param_{i}" for i, t in enumerate(types))
    words = set(re.findall(r"[\w$]+", body))
    arrays = {s: n for s, n in (everywhere | _shared(body)).items() if s in words}
    lines = [f'extern "C" __global__ void {name}({given}) {{']
    for m in REGISTERS.finditer(body):
        lines += [f"{C[m[1]] if m[1] != 'f32' else 'u32'} {_register(m[2])}{i};" for i in range(int(m[3]))]
    lines += ["const u64 gs_dynamic_mem = 0;"]
    for s, n in arrays.items():
        lines += [
            f"GS_SHARED(u8, {_symbol(s)}_p, {n});",
            f"const u64 {_symbol(s)} = {_symbol(s)}_p - gs_emu::shared;",
        ]
    return "\n".join([*lines, *_statements(body), "}\n"])


def _statements(body: str) -> Iterator[str]:
    body = re.sub(r"^\s*(\$\w+):", r"\1: ;", body, flags=re.MULTILINE)
    for raw in body.split(";"):
        statement = " ".join(raw.split())
        if not statement or statement.startswith("."):
            continue
        if statement.endswith(":"):
            yield f"{_symbol(statement[:-1])}:;"
            continue
        m = INSTRUCTION.fullmatch(statement)
        if m is None:
            raise UnknownInstruction(statement)
        code = _code(Instruction(tuple(m[3].split(".")), tuple(OPERAND.findall(m[4]))), statement)
        yield f"if ({m[1]}{_register(m[2])}) {{ {code} }}" if m[2] else code


def _code(i: Instruction, statement: str) -> str:
    rule = RULES.get(i.parts[0])
    if rule is None:
        raise UnknownInstruction(statement)
    try:
        return rule(i)
    except (AssertionError, KeyError, ValueError, IndexError) as e:
        raise UnknownInstruction(f"{statement} ({type(e).__name__}: {e})") from None


# ---- operands


def _register(name: str) -> str:
    return name.replace("%", "r_")


def _symbol(name: str) -> str:
    return name.replace("$", "_S_")


def bits(operand: str) -> str:
    """A register, a symbol's address or a literal, as an integer."""
    if operand in SPECIAL:
        return SPECIAL[operand]
    if operand.startswith("%"):
        return _register(operand)
    if operand.startswith("0f"):
        return f"0x{operand[2:]}u"
    if re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", operand):
        return f"(u64){operand}ll"
    return _symbol(operand)


def value(operand: str, type: str) -> str:
    """An operand of a C type."""
    return bits(operand) if type == "bool" else f"as<{type}>({bits(operand)})"


def unsigned(type: str) -> str:
    """The type without sign: what arithmetic wraps around in."""
    return {"int": "u32", "i64": "u64", "int16_t": "u16"}.get(type, type)


def put(target: str, expression: str, type: str) -> str:
    if type == "bool":
        return f"{_register(target)} = {expression};"
    return f"put({_register(target)}, ({type})({expression}));"


def address(operand: str, i: Instruction) -> str:
    base, _, offset = operand.strip("[]").partition("+")
    where = (
        f"({bits(base)} + ({offset or 0}ll))"
        if base.startswith("%")
        else f"({_symbol(base)} + ({offset or 0}ll))"
    )
    return f"in_shared({where})" if i.has("shared") else f"(void*){where}"


def same_address(i: Instruction) -> str:
    """Addresses of global memory are the same in any space."""
    assert i.parts[1:] == ("to", "global", "u64")
    return put(i.operands[0], bits(i.operands[1]), "u64")


def several(operand: str) -> list[str]:
    return [o.strip() for o in operand.strip("{}").split(",")]


# ---- instructions


def load(i: Instruction) -> str:
    to, source = several(i.operands[0]), i.operands[1]
    if i.has("param"):
        return put(to[0], _symbol(source.strip("[]")), i.type)
    n = len(to)
    got = f"const {i.type}* p = at<{i.type}>({address(source, i)}, {n}); {i.type} v[{n}]; memcpy(v, p, sizeof v);"
    return f"{{ {got} {' '.join(put(r, f'v[{k}]', i.type) for k, r in enumerate(to))} }}"


def store(i: Instruction) -> str:
    what = several(i.operands[1])
    values = ", ".join(value(o, i.type) for o in what)
    to = f"at<{i.type}>({address(i.operands[0], i)}, {len(what)})"
    return f"{{ const {i.type} v[] = {{{values}}}; memcpy({to}, v, sizeof v); }}"


def move(i: Instruction) -> str:
    to, source = i.operands
    if source.startswith("{"):
        low, high = several(source)
        return put(to, f"(u32){bits(low)} | (u32){bits(high)} << 16", "u32")
    if to.startswith("{"):
        low, high = several(to)
        return put(low, f"(u16){bits(source)}", "u16") + put(high, f"(u16)({bits(source)} >> 16)", "u16")
    return put(to, value(source, i.type), i.type)


def convert(i: Instruction) -> str:
    to, source, *more = i.operands
    target, origin = i.parts[-2:]
    x = value(source, C[origin])
    if target in ("f16x2", "bf16x2"):
        one = f"to_{target.removesuffix('x2').replace('f16', 'half').replace('bhalf', 'bf16')}"
        return put(to, f"{one}({value(more[0], 'float')}) | (u32){one}({x}) << 16", "u32")
    if "f16" in (target, origin):
        return put(to, *((f"from_half({x})", "float") if origin == "f16" else (f"to_half({x})", "u16")))
    if (target, origin) == ("f32", "f32"):
        how = {"rni": f"rintf({x})", "sat": f"({x} >= 0 ? fminf({x}, 1.0f) : 0.0f)"}
        return put(to, how[i.parts[1]], "float")
    if origin == "f32":
        return put(to, {("rzi", "s32"): f"truncated({x})"}[i.parts[1], target], C[target])
    return put(to, x, C[target])


def arithmetic(operator: str) -> Callable[[Instruction], str]:
    def rule(i: Instruction) -> str:
        t = unsigned(i.type)
        to, a, b = i.operands
        return put(to, f"{value(a, t)} {operator} {value(b, t)}", t)

    return rule


def multiply(i: Instruction) -> str:
    to, a, b = i.operands
    t = i.type
    if i.has("wide"):
        wide = {"u16": "u32", "int16_t": "int", "u32": "u64", "int": "i64"}[t]
        return put(to, f"({wide}){value(a, t)} * ({wide}){value(b, t)}", wide)
    if i.has("hi"):
        assert t == "int"
        return put(to, f"(i64){value(a, t)} * (i64){value(b, t)} >> 32", t)
    return arithmetic("*")(i)


def multiply_add(i: Instruction) -> str:
    to, a, b, c = i.operands
    t = unsigned(i.type)
    assert i.has("lo")
    return put(to, f"{value(a, t)} * {value(b, t)} + {value(c, t)}", t)


def fused(i: Instruction) -> str:
    to, *given = i.operands
    a, b, c = (value(o, "float") for o in given)
    return put(to, f"{'fma_down' if i.has('rm') else 'fmaf'}({a}, {b}, {c})", "float")


def quotient(operator: str) -> Callable[[Instruction], str]:
    def rule(i: Instruction) -> str:
        to, a, b = i.operands
        return put(to, f"{value(a, i.type)} {operator} {value(b, i.type)}", i.type)

    return rule


def shift(function: str) -> Callable[[Instruction], str]:
    def rule(i: Instruction) -> str:
        to, a, n = i.operands
        return put(to, f"{function}<{i.type}>({value(a, i.type)}, (u32){bits(n)})", i.type)

    return rule


def extreme(operator: str, function: str) -> Callable[[Instruction], str]:
    def rule(i: Instruction) -> str:
        to, a, b = i.operands
        x, y = value(a, i.type), value(b, i.type)
        return put(
            to, f"{function}({x}, {y})" if i.type == "float" else f"{x} {operator} {y} ? {x} : {y}", i.type
        )

    return rule


def unary(expression: str) -> Callable[[Instruction], str]:
    def rule(i: Instruction) -> str:
        to, a = i.operands
        return put(to, expression.format(value(a, i.type)), i.type)

    return rule


def negate(i: Instruction) -> str:
    to, a = i.operands
    t = unsigned(i.type)
    return put(to, f"-{value(a, t)}" if t == "float" else f"0 - {value(a, t)}", t)


def complement(i: Instruction) -> str:
    to, a = i.operands
    return put(to, f"{'!' if i.type == 'bool' else '~'}{value(a, i.type)}", i.type)


COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
UNORDERED = {"leu": ">", "ltu": ">=", "gtu": "<=", "geu": "<"}  # what must not hold


def compare(i: Instruction) -> str:
    to, a, b = i.operands
    x, y, how = value(a, i.type), value(b, i.type), i.parts[1]
    text = f"!({x} {UNORDERED[how]} {y})" if how in UNORDERED else f"{x} {COMPARED[how]} {y}"
    return put(to, text, "bool")


def select(i: Instruction) -> str:
    to, a, b, p = i.operands
    return put(to, f"{bits(p)} ? {value(a, i.type)} : {value(b, i.type)}", i.type)


def shuffle(i: Instruction) -> str:
    target, a, lane, clamp, mask = i.operands
    to, _, valid = target.partition("|")
    function = {"bfly": "gs_shfl_xor", "idx": "gs_shfl"}[i.parts[2]]
    code = f"whole_warp((u32){bits(clamp)}, (u32){bits(mask)}); "
    code += put(to, f"{function}<u32>((u32){bits(a)}, (int){bits(lane)})", "u32")
    return code + (put(valid, "true", "bool") if valid else "")


def matrix_load(i: Instruction) -> str:
    to = several(i.operands[0])
    function = "gs_ldmatrix4_t" if i.has("trans") else "gs_ldmatrix4"
    got = " ".join(put(r, f"v[{k}]", "u32") for k, r in enumerate(to))
    return f"{{ u32 v[4]; {function}(v, {address(i.operands[1], i)}); {got} }}"


PRODUCTS = {
    "m16n8k16 f32 f16 f16 f32": ("gs_mma_half", "float"), "m16n8k16 f32 bf16 bf16 f32": ("gs_mma_bf16", "float"),
    "m16n8k8 f32 tf32 tf32 f32": ("gs_mma_tf32", "float"),
    "m16n8k32 s32 s8 s8 s32": ("gs_mma_int8", "int"), "m16n8k16 s32 s8 s8 s32": ("gs_mma_int8_k16", "int"),
}  # fmt: skip


def matrix_product(i: Instruction) -> str:
    d, a, b, c = map(several, i.operands)
    function, t = PRODUCTS[" ".join((i.parts[3], *i.parts[-4:]))]
    assert i.parts[1:3] == ("sync", "aligned")
    assert i.parts[4:6] == ("row", "col")
    start = ", ".join(value(x, t) for x in c)
    given = ["a", *map(bits, b)] if len(a) == 4 else ["a[0]", "a[1]", *map(bits, b)]
    results = " ".join(put(r, f"v[{k}]", t) for k, r in enumerate(d))
    operands = f"{t} v[4] = {{{start}}}; const u32 a[{len(a)}] = {{{', '.join(map(bits, a))}}};"
    return f"{{ {operands} {function}(v, {', '.join(given)}); {results} }}"


def copy_later(i: Instruction) -> str:
    if i.has("commit_group"):
        return "gs_copy_commit();"
    if i.has("wait_group"):
        return f"gs_emu::finish_copies({i.operands[0]});"
    assert i.parts[:2] == ("cp", "async")
    assert i.parts[3:5] == ("shared", "global")
    to, source, size, given = i.operands
    shared, memory = (bits(o.strip("[]")) for o in (to, source))
    return f"gs_copy_small<{size}>(in_shared({shared}), (void*){memory}, all_or_none<{size}>((u32){bits(given)}));"


def on_words(function: str, *types: str) -> Callable[[Instruction], str]:
    """A function of 32-bit registers, for instructions that end in these types."""

    def rule(i: Instruction) -> str:
        to, *given = i.operands
        assert i.parts[1:] == types
        return put(to, f"{function}({', '.join(value(o, 'u32') for o in given)})", "u32")

    return rule


def insert(i: Instruction) -> str:
    to, a, b, position, length = i.operands
    t = i.type
    return put(
        to, f"inserted<{t}>({value(a, t)}, {value(b, t)}, (u32){bits(position)}, (u32){bits(length)})", t
    )


def nothing(i: Instruction) -> str:
    return ";"


RULES: dict[str, Callable[[Instruction], str]] = {
    "ld": load, "st": store, "mov": move, "cvt": convert, "cvta": same_address,
    "add": arithmetic("+"), "sub": arithmetic("-"), "mul": multiply, "mad": multiply_add, "fma": fused,
    "div": quotient("/"), "rem": quotient("%"), "and": arithmetic("&"), "or": arithmetic("|"), "xor": arithmetic("^"),
    "not": complement, "neg": negate, "abs": unary("fabsf({})"), "min": extreme("<", "fminf"),
    "max": extreme(">", "fmaxf"), "shl": shift("shifted_left"), "shr": shift("shifted_right"), "setp": compare,
    "selp": select, "copysign": lambda i: put(i.operands[0], "copysignf({1}, {0})".format(
        *(value(o, "float") for o in i.operands[1:])), "float"),
    "bfi": insert, "dp4a": on_words("dot4", "s32", "s32"), "prmt": on_words("permuted", "b32"),
    "ex2": unary("flushed(exp2f(flushed({})))"), "sqrt": unary("sqrtf({})"),
    "rcp": lambda i: unary("flushed(1.0f / flushed({}))" if i.has("ftz") else "1.0f / {}")(i),
    "bra": lambda i: f"goto {_symbol(i.operands[0])};", "ret": lambda i: "return;",
    "bar": lambda i: "gs_emu::barrier(0);", "shfl": shuffle, "ldmatrix": matrix_load, "mma": matrix_product,
    "cp": copy_later, "griddepcontrol": nothing, "prefetch": nothing,
}  # fmt: skip


# ---- on the emulator


class PtxTarget(EmulatedTarget):
    """Runs cases on what NVRTC makes of the kernels."""

    def emulator(self, stem: str) -> Emulator:
        return PtxEmulator(stem, self.files[stem])


class PtxEmulator(Emulator):
    def built(self, text: str, more: tuple[str, ...]) -> Path:
        return build(translated(compiled(text)), (*FLAGS, *more))


def compiled(source: str, architecture: str = "compute_90") -> str:
    """PTX by NVRTC; needs no driver."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], [])
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--diag-suppress=177"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(status):
        raise KernelError(f"NVRTC: {status.name}")
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = b" " * size
    nvrtc.nvrtcGetPTX(program, text)
    nvrtc.nvrtcDestroyProgram(program)
    return text.rstrip(b" \0").decode()
