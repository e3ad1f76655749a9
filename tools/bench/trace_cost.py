"""What the trace costs: decode with and without it, in turn in one process. `python tools/bench/trace_cost.py MODEL`"""

import argparse
from statistics import median
from time import perf_counter_ns

import graphsched
from graphsched.run.trace import OFF, ON


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="GGUF file (default: the embedded model)")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-n", "--tokens", type=int, default=16, help="of a block with, then one without")
    parser.add_argument("-r", "--rounds", type=int, default=200)
    parser.add_argument("-c", "--context", type=int, default=64)
    args = parser.parse_args()
    session = graphsched.load(args.model, n_threads=args.threads, n_ctx=args.context)
    tokens = [(3 + 7 * i % (session.model.n_vocab - 3),) for i in range(args.tokens)]
    times: dict[int, list[list[int]]] = {ON: [], OFF: []}
    for i in range(args.rounds):
        for level in (ON, OFF) if i % 2 else (OFF, ON):
            times[level].append(block(session, tokens, level))
    on, off = (shortest(times[level][1:]) for level in (ON, OFF))
    print(
        f"shortest of each token  {on / 1e3:10.3f} µs with, {off / 1e3:10.3f} µs without: {on / off - 1:+.2%}"
    )
    on, off = (median(sum(b) / len(b) for b in times[level][1:]) for level in (ON, OFF))
    print(
        f"median of blocks        {on / 1e3:10.3f} µs with, {off / 1e3:10.3f} µs without: {on / off - 1:+.2%}"
    )
    session.close()


def block(session: graphsched.Session, tokens: list[tuple[int]], level: int) -> list[int]:
    """ns of each token of a sequence that begins anew."""
    session.recorder.level = level
    session.reset()
    times = []
    for token in tokens:
        begin = perf_counter_ns()
        session.eval(token)
        times.append(perf_counter_ns() - begin)
    return times


def shortest(blocks: list[list[int]]) -> float:
    """Mean over tokens of the shortest time that each took: what is left without other processes."""
    return sum(map(min, zip(*blocks, strict=True))) / len(blocks[0])


if __name__ == "__main__":
    main()
