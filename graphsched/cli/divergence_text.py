"""A comparison of two models in text: a line for each window, then llama-perplexity's groups of statistics."""

from typing import Any, Final

Report = dict[str, Any]
HEADER: Final = (
    f"{'chunk':5} {'PPL':>22} {'ln(PPL(Q)/PPL(base))':>25} "
    f"{'KL divergence':>22} {'Δp RMS':>20} {'same top p':>20}"
)


def running_line(window: int, s: Report) -> str:
    """What is known after so many windows, in the columns of HEADER."""
    cells = [
        f"{'{:.4f} ± {:.4f}'.format(*s['ppl']):>22}",
        f"{'{:.5f} ± {:.5f}'.format(*s['log_ppl_ratio']):>25}",
        f"{'{:.5f} ± {:.5f}'.format(*s['kld']):>22}",
        f"{_share(s['p_diff_rms']):>20}",
        f"{_share(s['same_top']):>20}",
    ]
    return " ".join([f"{window:5}", *cells])


def statistics_lines(s: Report) -> list[str]:
    """The statistics of a comparison, in llama-perplexity's three groups."""
    pairs = {
        "Mean PPL(Q)": s["ppl"],
        "Mean PPL(base)": s["ppl_base"],
        "Mean ln(PPL(Q)/PPL(base))": s["log_ppl_ratio"],
        "Mean PPL(Q)/PPL(base)": s["ppl_ratio"],
        "Mean PPL(Q)-PPL(base)": s["ppl_difference"],
    }
    lines = ["====== Perplexity statistics ======"]
    lines += [f"{name:30}: {value:10.6f} ± {error:10.6f}" for name, (value, error) in pairs.items()]
    lines += [f"{'Cor(ln(PPL(Q)), ln(PPL(base)))':30}: {100 * s['correlation']:6.2f}%"]
    lines += ["", "====== KL divergence statistics ======"]
    lines += ["{:12}: {:10.6f} ± {:10.6f}".format("Mean KLD", *s["kld"])]
    lines += [f"{_name(k) + ' KLD':12}: {x:10.6f}" for k, x in s["kld_percentiles"].items()]
    lines += ["", "====== Token probability statistics ======"]
    lines += [f"{'Mean Δp':12}: {_share(s['p_diff'])}"]
    lines += [f"{_name(k) + ' Δp':12}: {100 * x:6.3f} %" for k, x in s["p_diff_percentiles"].items()]
    lines += [f"{'RMS Δp':12}: {_share(s['p_diff_rms'])}", f"{'Same top p':12}: {_share(s['same_top'])}"]
    return lines


def _name(key: str) -> str:
    return "Median" if key == "50.0%" else key.capitalize()


def _share(pair: tuple[float, float]) -> str:
    return f"{100 * pair[0]:6.3f} ± {100 * pair[1]:5.3f} %"
